//! What retention must keep.

use std::{sync::Arc, time::Duration};

use sluice_model::{Checkpoint, Generation, IngestorName, Position, StartPosition};

use super::helpers::{LONG, coordination, own, pointer};
use crate::{Error, Hold, PutCheckpoint, STOPPED_STREAM_HOLD, kv::Kv};

fn at(height: u64) -> Position {
    Position::end_of(Generation(0), pointer(height))
}

fn hold(name: &str, height: u64, expires_in: Option<Duration>) -> Hold {
    Hold { name: name.to_owned(), position: at(height), expires_in, implied: false }
}

pub(super) async fn explicit_holds(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "holds");
    let (chain, other): (IngestorName, IngestorName) =
        ("chain".parse().unwrap(), "chain/2".parse().unwrap());
    c.put_hold(&chain, &hold("copy/x", 5, None)).await.unwrap();
    c.put_hold(&other, &hold("copy/x", 7, None)).await.unwrap();
    c.put_hold(&chain, &hold("soon", 1, Some(Duration::from_secs(2)))).await.unwrap();
    assert_eq!(c.holds(&chain).await.unwrap().len(), 2);
    assert_eq!(c.holds(&other).await.unwrap(), [hold("copy/x", 7, None)]);
    c.put_hold(&chain, &hold("copy/x", 6, None)).await.unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while c.holds(&chain).await.unwrap() != [hold("copy/x", 6, None)] {
        assert!(tokio::time::Instant::now() < deadline, "the hold did not run out");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    c.delete_hold(&chain, "copy/x").await.unwrap();
    c.delete_hold(&chain, "copy/x").await.unwrap();
    assert_eq!(c.holds(&chain).await.unwrap(), []);
    let refused = c.put_hold(&chain, &hold("stream/x", 1, None)).await;
    assert!(matches!(refused, Err(Error::Invalid(_))));
}

pub(super) async fn implied_holds(kv: Arc<dyn Kv>) {
    let c = coordination(kv, "implied");
    let chain: IngestorName = "chain".parse().unwrap();
    let (ticket, epoch) = own(&c, "stream/a/volume", LONG).await;
    let put = PutCheckpoint {
        stream: "a".to_owned(),
        ingestor: chain.clone(),
        previous_version: 0,
        checkpoint: Checkpoint { position: at(5), digest: None },
        filter: String::new(),
        reset_epoch: 0,
    };
    c.put_checkpoint(&ticket, epoch, &put).await.unwrap();
    let running =
        Hold { name: "stream/a".to_owned(), position: at(5), expires_in: None, implied: true };
    assert_eq!(c.holds(&chain).await.unwrap(), [running]);
    assert_eq!(c.holds(&"else".parse().unwrap()).await.unwrap(), []);
    c.release(&ticket).await.unwrap();
    let stopped = c.holds(&chain).await.unwrap();
    let left = stopped[0].expires_in.unwrap();
    assert!(left <= STOPPED_STREAM_HOLD && left > STOPPED_STREAM_HOLD / 2, "{left:?}");
    // A reset forgets the position, and what it held.
    c.reset_stream("a", 0, &StartPosition::Latest).await.unwrap();
    assert_eq!(c.holds(&chain).await.unwrap(), []);
}
