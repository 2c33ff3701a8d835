"""SERVER HANDLER: one of socketserver's servers, with one of the handlers below."""

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
        self.tell_others("Client joined %s\r\n" % self.name)
        try:
            for line in self.rfile:
                self.tell_others("[%s] %s\r\n" % (self.name, line.rstrip(b"\r\n").decode()))
        finally:
            with self.lock:
                del self.room[self.name]
            self.tell_others("Client left %s\r\n" % self.name)

    def tell_others(self, line):
        line = line.encode()
        with self.lock:
            for name, wfile in self.room.items():
                if name != self.name:
                    try:
                        wfile.write(line)
                    except OSError:
                        pass  # Who is gone will be noticed by its own thread.


class Quiet:
    """A client that hangs up is nothing to report."""

    # The default of 5 makes clients wait for seconds when many of them come at once.
    request_queue_size = 1024
    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


server, handler = sys.argv[1:]
server = type("Server", (Quiet, getattr(socketserver, server)), {})
with server(("127.0.0.1", 0), globals()[handler]) as serving:
    print("listening on %s:%d" % serving.server_address, flush=True)
    serving.serve_forever()
