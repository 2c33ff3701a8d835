"""Arguments: SERVER HANDLER, a server class of socketserver and a handler class of this file."""

import socketserver
import sys
import threading


class Hello(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"Hello World!\n")


class Echo(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True

    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)


class EchoDatagram(socketserver.DatagramRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.read())


class Chat(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True
    room = {}
    lock = threading.Lock()

    def handle(self):
        self.name = "%s:%d" % self.client_address
        self.wfile.write(b"You're connected to the chat server\r\n")
        with self.lock:
            self.room[self.name] = self.wfile
        self.send_to_others("Client joined %s\r\n" % self.name)
        try:
            for line in self.rfile:
                self.send_to_others("[%s] %s\r\n" % (self.name, line.rstrip(b"\r\n").decode()))
        finally:
            with self.lock:
                del self.room[self.name]
            self.send_to_others("Client left %s\r\n" % self.name)

    def send_to_others(self, line):
        line = line.encode()
        with self.lock:
            for name, wfile in self.room.items():
                if name != self.name:
                    try:
                        wfile.write(line)
                    except OSError:
                        pass  # The thread of a closed connection removes it.


class Settings:
    """A client that disconnects is no error."""

    # With the default of 5, many clients at once overflow the backlog and wait for seconds.
    request_queue_size = 1024
    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


server, handler = sys.argv[1:]
server = type("Server", (Settings, getattr(socketserver, server)), {})
with server(("127.0.0.1", 0), globals()[handler]) as serving:
    print("listening on %s:%d" % serving.server_address, flush=True)
    serving.serve_forever()
