//! Certificates: who gets in, and what is said at the start when a file cannot be used.

use std::path::{Path, PathBuf};

use sluice_proto::v1::{self as pb, router_client::RouterClient};
use sluice_service::{Error, Listen, Shutdown, TlsFiles, Transport, serve, transport};

use crate::{
    GRACE,
    fake::{Fake, anywhere, start},
};

fn pem(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

/// Certificate and key of this name; the authority that signed `peer`.
fn files(name: &str) -> TlsFiles {
    TlsFiles {
        cert: pem(&format!("{name}.crt")),
        key: pem(&format!("{name}.key")),
        client_ca: Some(pem("ca.crt")),
    }
}

async fn answers(transport: Transport) -> bool {
    RouterClient::new(transport).list_journals(pb::ListJournalsRequest {}).await.is_ok()
}

#[tokio::test]
async fn only_peers_of_the_authority_get_in() {
    let listen = Listen { tls: Some(files("peer")), ..anywhere() };
    let (bound, task, shutdown) = start(Fake::default(), listen, GRACE).await;
    let url = format!("https://{}", bound.api);
    assert!(answers(transport::remote_tls(&url, &files("peer")).unwrap()).await);
    let intruder = transport::remote_tls(&url, &files("intruder")).unwrap();
    assert!(!answers(intruder).await, "signed by another authority");
    let plain = transport::remote(&format!("http://{}", bound.api)).unwrap();
    assert!(!answers(plain).await, "plaintext");
    shutdown.stop();
    task.await.unwrap().unwrap();

    // And the other way round: we do not talk to whom we do not trust.
    let listen = Listen { tls: Some(files("intruder")), ..anywhere() };
    let (bound, task, shutdown) = start(Fake::default(), listen, GRACE).await;
    let url = format!("https://{}", bound.api);
    assert!(!answers(transport::remote_tls(&url, &files("peer")).unwrap()).await);
    shutdown.stop();
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_stops_the_start() {
    let not_pem = pem("../serve/tls.rs");
    for (tls, said) in [
        (TlsFiles { cert: pem("none.crt"), ..files("peer") }, "none.crt"),
        (TlsFiles { key: not_pem, ..files("peer") }, "not a PEM file"),
        (TlsFiles { key: pem("intruder.key"), ..files("peer") }, "security.tls"),
    ] {
        let listen = Listen { tls: Some(tls), ..anywhere() };
        let error = serve(vec![], listen, None, Shutdown::new(GRACE)).await.unwrap_err();
        assert!(matches!(error, Error::Tls { .. }), "{error}");
        assert!(error.to_string().contains(said), "{said}: {error}");
    }
}

#[tokio::test]
async fn scheme_and_certificates_must_agree() {
    for (made, said) in [
        (transport::remote("https://localhost:1"), "set security.tls"),
        (transport::remote_tls("http://localhost:1", &files("peer")), "write https://"),
        (
            transport::remote_tls(
                "https://localhost:1",
                &TlsFiles { client_ca: None, ..files("peer") },
            ),
            "client_ca",
        ),
    ] {
        let error = made.unwrap_err().to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
}
