use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

use crate::Error;

/// Largest PEM file, in bytes.
const MAX_PEM: u64 = 1 << 20;

/// How long a handshake may take. Whoever is slower holds a connection and says nothing.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// PEM files.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Our certificate and what signed it.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authority that the other side must show.
    pub client_ca: Option<PathBuf>,
}

impl TlsFiles {
    /// For a listener: with an authority, only its clients get in.
    pub(crate) fn server(&self) -> Result<ServerTlsConfig, Error> {
        let config = ServerTlsConfig::new().identity(self.identity()?).timeout(HANDSHAKE);
        Ok(match &self.client_ca {
            Some(ca) => config.client_ca_root(Certificate::from_pem(read(ca)?)),
            None => config,
        })
    }

    /// For our own calls.
    pub(crate) fn client(&self) -> Result<ClientTlsConfig, Error> {
        // Without an authority every handshake would fail, long after the start.
        let ca = self.client_ca.as_ref().ok_or_else(|| Error::Tls {
            path: self.cert.clone(),
            reason: "without security.tls.client_ca no peer can be trusted; set it".to_owned(),
        })?;
        Ok(ClientTlsConfig::new()
            .identity(self.identity()?)
            .ca_certificate(Certificate::from_pem(read(ca)?)))
    }

    fn identity(&self) -> Result<Identity, Error> {
        Ok(Identity::from_pem(read(&self.cert)?, read(&self.key)?))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    use std::io::Read;
    let wrong = |reason: String| Error::Tls { path: path.to_owned(), reason };
    let file = std::fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
    let mut pem = Vec::new();
    file.take(MAX_PEM + 1).read_to_end(&mut pem).map_err(|error| wrong(error.to_string()))?;
    if pem.len() as u64 > MAX_PEM {
        return Err(wrong(format!("it is larger than {MAX_PEM} bytes")));
    }
    if !pem.windows(11).any(|bytes| bytes == b"-----BEGIN ") {
        return Err(wrong("it is not a PEM file; convert it with openssl".to_owned()));
    }
    Ok(pem)
}
