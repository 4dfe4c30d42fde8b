//! Coordinators that hang instead of dying.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use sluice_client::coordination::{Coordination, Member, Session, SessionOptions};
use sluice_coordination::{EmbeddedKv, Kv};
use sluice_coordinator::{Coordinator, CoordinatorOptions, StoreOptions};
use sluice_service::{Service, Shutdown, transport};
use tokio::{
    net::TcpListener,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::TcpListenerStream;

use crate::{
    cases::{LOCK, LONG, acquire},
    hole::Hole,
    node::{TTL, ingestor},
};

/// A replica over a store, on a socket.
async fn replica(kv: &Arc<dyn Kv>) -> SocketAddr {
    let options = CoordinatorOptions::new(StoreOptions::Memory);
    let coordinator = Coordinator::over(Arc::clone(kv), &options);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_routes(coordinator.routes());
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    tokio::spawn(Box::new(coordinator).run(Shutdown::new(Duration::from_secs(5))));
    address
}

/// Two replicas over one store, and ways to them.
async fn two() -> (Hole, Hole) {
    let kv: Arc<dyn Kv> = Arc::new(EmbeddedKv::in_memory());
    (Hole::before(replica(&kv).await).await, Hole::before(replica(&kv).await).await)
}

async fn session(urls: &str, name: &str, ttl: Duration) -> (Coordination, Session) {
    let client = Coordination::new(transport::remote(urls).unwrap());
    let options = SessionOptions { ttl, member: Member::here(name, "") };
    let session = client.session(options).await.unwrap();
    (client, session)
}

/// A hung replica costs nobody the lock, at the usual and at the shortest lease: the renewals and
/// all that is followed go on over the other one, and what happens there is heard at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_hung_replica_costs_no_lock() {
    for ttl in [Duration::from_secs(2), TTL] {
        let (first, second) = two().await;
        let urls = format!("{}, {}", first.url(), second.url());
        let (client, one) = session(&urls, "one", ttl).await;
        let lock = acquire(&one, LOCK).await;
        let (_, two) = session(&urls, "two", ttl).await;
        let waiter = tokio::spawn(async move { (two.acquire(LOCK).await.unwrap(), two) });
        let mut control = client.watch_control(&ingestor("chain"));
        control.next().await.unwrap();
        while client.locks(LOCK).await.unwrap()[0].waiters.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(second.connections(), 0, "one address is in use, the first");
        let (epoch, id) = (lock.epoch(), one.id());
        first.swallow(true);
        let hung = Instant::now();
        while hung.elapsed() < ttl * 3 {
            assert!(lock.is_valid() && one.id() == id, "lost after {:?}", hung.elapsed());
            assert!(!waiter.is_finished());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Both processes left the hung one for good.
        assert_eq!(second.connections(), 2);
        let paused = client.set_paused(&ingestor("chain"), true, "ops", "").await.unwrap();
        let heard = Instant::now();
        assert_eq!(timeout(LONG, control.next()).await.unwrap().unwrap(), paused);
        lock.release().await.unwrap();
        let (won, _two) = timeout(LONG, waiter).await.unwrap().unwrap();
        assert!(heard.elapsed() < ttl, "{:?}", heard.elapsed());
        assert!(won.epoch() > epoch && won.is_valid());
    }
}

/// A replica that cannot be reached is left with the first call.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_replica_is_left_for_the_next_and_back() {
    let (first, second) = two().await;
    let urls = format!("{},{}", first.url(), second.url());
    let (client, one) = session(&urls, "one", TTL).await;
    let lock = acquire(&one, LOCK).await;
    for (dead, alive) in [(&first, &second), (&second, &first)] {
        alive.reject(false);
        let before = alive.connections();
        dead.reject(true);
        client.latest(&ingestor("chain")).await.unwrap();
        assert!(alive.connections() > before);
        tokio::time::sleep(TTL).await;
        assert!(lock.is_valid());
    }
}

/// One address: the connection died without a word, and the next one lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_connection_is_replaced_within_the_lease() {
    let (only, _) = two().await;
    let (client, one) = session(&only.url(), "one", TTL).await;
    let lock = acquire(&one, LOCK).await;
    let before = only.connections();
    only.bury();
    let died = Instant::now();
    while died.elapsed() < TTL * 2 {
        assert!(lock.is_valid(), "lost after {:?}", died.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(only.connections(), before + 1);
    client.latest(&ingestor("chain")).await.unwrap();
}
