//! Certificates: which one a client is shown, what it has to show, and what is wrong with a file.

use std::io::Write;
use std::path::Path;

use socketserver::*;

use crate::every_server::on_every_server;
use crate::support::TempDir;
use crate::support::servers::answers;
use crate::tls_clients::{
    WithTls, ask, client_config, config_of, connect, connect_with, file, handshake, pair,
    server_config,
};

/// The subject's common name of the certificate that the client was shown, as its file is called.
#[track_caller]
fn shown(client: &mut crate::tls_clients::TlsClient) -> &'static str {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    handshake(client).unwrap();
    let shown = client.conn.peer_certificates().unwrap()[0].clone();
    let is_shown =
        |name: &&str| CertificateDer::from_pem_file(file(&format!("{name}.pem"))).unwrap() == shown;
    ["localhost", "other", "renewed"].into_iter().find(is_shown).unwrap()
}

#[test]
fn the_name_that_a_client_asks_for_chooses_the_certificate() {
    let [chain, key] = pair("other");
    let config = server_config().also_certificate(chain, key).unwrap();
    let handler = || (services::Hello, ());
    on_every_server(WithTls(config, ()), handler, |server, ()| {
        for (name, certificate) in [
            ("localhost", "localhost"),
            ("other.example", "other"),
            ("a.wild.example", "other"),
            ("127.0.0.1", "localhost"),
        ] {
            let mut client = connect_with(server, client_config(None), name);
            assert_eq!(shown(&mut client), certificate, "{name}");
        }
        // One that no certificate has: the client refuses the first.
        let mut client = connect_with(server, client_config(None), "b.a.wild.example");
        let error = handshake(&mut client).unwrap_err().to_string();
        assert!(error.contains("not valid for name"), "{error}");
    });
}

#[test]
fn a_new_certificate_is_for_new_handshakes() {
    let handler = || (services::Echo, ());
    on_every_server(WithTls(server_config(), ()), handler, |server, ()| {
        let mut before = connect(server);
        assert_eq!(shown(&mut before), "localhost");
        let mut in_between = connect(server);
        in_between.conn.write_tls(&mut in_between.sock).unwrap();

        server.handle().set_tls(config_of("renewed")).unwrap();
        assert_eq!(ask(&mut before, "hello"), "hello");
        // A sequential server accepts the next one only now.
        drop(before);
        handshake(&mut in_between).unwrap();
        drop(in_between);
        assert_eq!(shown(&mut connect(server)), "renewed");
    });
}

/// What a server answers a client that shows this certificate: its own, in DER, or that it has none.
fn answer_to(server: &RunningServer, certificate: Option<&str>) -> std::io::Result<String> {
    let mut client = connect_with(server, client_config(certificate), "localhost");
    handshake(&mut client)?;
    client.write_all(b"who am I?\n")?;
    // In TLS 1.3 a client is refused after what is a handshake to it.
    let mut answer = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(&mut client), &mut answer)?;
    Ok(answer.trim_end().to_owned())
}

fn tells_certificate() -> impl StreamRequestHandler {
    answers(|_, connection| {
        let tls = connection.tls().expect("TLS");
        Ok(writeln!(connection, "{:?}", tls.peer_certificates.first())?)
    })
}

#[track_caller]
fn der(name: &str) -> String {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    let certificate = CertificateDer::from_pem_file(file(&format!("{name}.pem"))).unwrap();
    format!("{:?}", Some(certificate.to_vec()))
}

#[test]
fn a_client_certificate_can_be_required() {
    let required = ClientCertificates::Required;
    let config = server_config().client_certificates(required, file("authority.pem")).unwrap();
    let handler = || (tells_certificate(), ());
    on_every_server(WithTls(config, ()), handler, |server, ()| {
        assert_eq!(answer_to(server, Some("ada")).unwrap(), der("ada"));
        for (certificate, reason) in [
            (None, "CertificateRequired"),
            (Some("eve"), "UnknownCA"),
            (Some("late"), "CertificateExpired"),
        ] {
            let error = answer_to(server, certificate).unwrap_err().to_string();
            assert!(error.contains(reason), "{certificate:?}: {error}");
        }
        crate::support::wait_until("all have ended", || server.stats().finished == 4);
        assert_eq!(server.stats().handshake_failed, 3);
    });
}

#[test]
fn a_client_certificate_can_be_optional() {
    let optional = ClientCertificates::Optional;
    let config = server_config().client_certificates(optional, file("authority.pem")).unwrap();
    let handler = || (tells_certificate(), ());
    on_every_server(WithTls(config, ()), handler, |server, ()| {
        assert_eq!(answer_to(server, Some("ada")).unwrap(), der("ada"));
        assert_eq!(answer_to(server, None).unwrap(), "None");
        for certificate in ["eve", "late"] {
            answer_to(server, Some(certificate)).unwrap_err();
        }
    });
}

#[test]
fn a_certificate_that_is_not_asked_for_is_not_shown() {
    let handler = || (tells_certificate(), ());
    on_every_server(WithTls(server_config(), ()), handler, |server, ()| {
        assert_eq!(answer_to(server, Some("eve")).unwrap(), "None");
    });
}

#[test]
fn a_configuration_of_rustls_is_taken_as_it_is() {
    let [chain, key] = pair("other");
    // Made by this crate, and taken out of it: as good as any.
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_no_client_auth();
    let config = {
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let chain = vec![CertificateDer::from_pem_file(chain).unwrap()];
        config.with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
    };
    let [chain, key] = pair("localhost");
    let config = TlsConfig::from(config).also_certificate(chain, key).unwrap();
    let error = config
        .clone()
        .client_certificates(ClientCertificates::Optional, file("authority.pem"))
        .unwrap_err();
    assert!(error.to_string().ends_with("the configuration was made with rustls"), "{error}");
    let handler = || (services::Hello, ());
    on_every_server(WithTls(config, ()), handler, |server, ()| {
        let mut client = connect_with(server, client_config(None), "other.example");
        assert_eq!(shown(&mut client), "other");
        assert_eq!(client.conn.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
        assert_eq!(shown(&mut connect(server)), "localhost");
    });
}

#[test]
fn an_error_names_the_file() {
    let directory = TempDir::new();
    let write = |name: &str, contents: &str| {
        let path = directory.join(name);
        std::fs::write(&path, contents).unwrap();
        path
    };
    let [chain, key] = pair("localhost");
    let missing = directory.join("missing.pem");
    let empty = write("empty.pem", "nothing here\n");
    let broken =
        write("broken.pem", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n");
    let nonsense = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    let nonsense = write("nonsense.pem", nonsense);
    let other = file("other.key");
    let of = |path: &Path, reason: &str| format!("cannot use {} for TLS: {reason}", path.display());

    let from_pem =
        |chain: &Path, key: &Path| TlsConfig::from_pem(chain, key).unwrap_err().to_string();
    for (error, expected) in [
        (from_pem(&missing, &key), of(&missing, "No such file or directory (os error 2)")),
        (from_pem(&chain, &missing), of(&missing, "No such file or directory (os error 2)")),
        (from_pem(&empty, &key), of(&empty, "it has no certificate in PEM")),
        (from_pem(&key, &key), of(&key, "it has no certificate in PEM")),
        (from_pem(&chain, &chain), of(&chain, "it has no private key in PEM")),
        (
            from_pem(&chain, &other),
            of(&other, &format!("it is not the key of the certificate in {}", chain.display())),
        ),
    ] {
        assert_eq!(error, expected);
    }
    for path in [&broken, &nonsense] {
        let error = from_pem(path, &key);
        assert!(error.starts_with(&of(path, "")), "{error}");
        let required = ClientCertificates::Required;
        let error = server_config().client_certificates(required, path).unwrap_err().to_string();
        assert!(error.starts_with(&of(path, "")), "{error}");
        let error = TlsClientConfig::from_pem(path).unwrap_err().to_string();
        assert!(error.starts_with(&of(path, "")), "{error}");
    }
    let error = server_config().also_certificate(&chain, &other).unwrap_err();
    assert!(matches!(error, Error::TlsFile { file, .. } if file == other));
}
