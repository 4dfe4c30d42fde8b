use std::io;

use super::*;

/// Longer than an open lane needs, shorter than a test may take.
const SOON: Duration = Duration::from_secs(10);
const NOT_NOW: Duration = Duration::from_millis(200);

/// A server that answers with what it gets, and tells it.
async fn echo() -> (u16, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 64];
                while let Ok(read @ 1..) = socket.read(&mut buffer).await {
                    tell.send(buffer[..read].to_vec()).await.ok();
                    socket.write_all(&buffer[..read]).await.ok();
                }
            });
        }
    });
    (port, told)
}

async fn client(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap()
}

async fn answer(socket: &mut TcpStream, within: Duration) -> Option<io::Result<Vec<u8>>> {
    let mut buffer = vec![0; 64];
    let read = timeout(within, socket.read(&mut buffer)).await.ok()?;
    Some(read.map(|read| buffer[..read].to_vec()))
}

async fn is_answered(socket: &mut TcpStream, with: &[u8]) {
    assert_eq!(answer(socket, SOON).await.unwrap().unwrap(), with);
}

#[tokio::test]
async fn lanes_open_close_and_delay() {
    let (port, mut told) = echo().await;
    let proxy = Proxy::start(vec![port]).await;
    let mut socket = client(&proxy).await;
    socket.write_all(b"one").await.unwrap();
    is_answered(&mut socket, b"one").await;

    proxy.set(Mode::NO_ANSWERS);
    socket.write_all(b"two").await.unwrap();
    assert_eq!(told.recv().await.unwrap(), b"one");
    assert_eq!(told.recv().await.unwrap(), b"two", "requests pass");
    assert!(answer(&mut socket, NOT_NOW).await.is_none(), "answers do not");
    proxy.set(Mode::PASS);
    is_answered(&mut socket, b"two").await;

    proxy.set(Mode::DROP);
    socket.write_all(b"three").await.unwrap();
    assert!(timeout(NOT_NOW, told.recv()).await.is_err());
    assert_eq!(proxy.held(), 5);
    proxy.set(Mode::PASS);
    is_answered(&mut socket, b"three").await;

    proxy.set(Mode::delay(NOT_NOW));
    let began = Instant::now();
    socket.write_all(b"four").await.unwrap();
    is_answered(&mut socket, b"four").await;
    assert!(began.elapsed() >= NOT_NOW * 2);
}

#[tokio::test]
async fn rejected_and_cut_connections_end() {
    let (port, _told) = echo().await;
    let proxy = Proxy::start(vec![1, port]).await;
    let mut socket = client(&proxy).await;
    socket.write_all(b"one").await.unwrap();
    is_answered(&mut socket, b"one").await;
    assert_eq!(proxy.in_use(), 1, "nobody listens on the first port");
    let ended = |answer: Option<io::Result<Vec<u8>>>| match answer.unwrap() {
        Ok(bytes) => bytes.is_empty(),
        Err(_) => true,
    };
    proxy.set(Mode::REJECT);
    assert!(ended(answer(&mut socket, SOON).await));
    assert!(ended(answer(&mut client(&proxy).await, SOON).await));
    proxy.set(Mode::PASS);
    let mut socket = client(&proxy).await;
    socket.write_all(b"two").await.unwrap();
    is_answered(&mut socket, b"two").await;
    proxy.cut();
    assert!(ended(answer(&mut socket, SOON).await));
}

#[tokio::test]
async fn what_a_severed_client_sent_arrives_when_it_is_released() {
    let (port, mut told) = echo().await;
    let proxy = Proxy::start(vec![port]).await;
    proxy.set(Mode::NO_REQUESTS);
    let mut old = client(&proxy).await;
    old.write_all(b"late").await.unwrap();
    while proxy.held() < 4 {
        tokio::task::yield_now().await;
    }
    proxy.sever();
    proxy.set(Mode::PASS);
    assert_eq!(answer(&mut old, SOON).await.unwrap().unwrap(), b"", "its client is told");
    let mut new = client(&proxy).await;
    new.write_all(b"early").await.unwrap();
    is_answered(&mut new, b"early").await;
    assert_eq!(told.recv().await.unwrap(), b"early");
    assert!(timeout(NOT_NOW, told.recv()).await.is_err());
    proxy.release();
    assert_eq!(timeout(SOON, told.recv()).await.unwrap().unwrap(), b"late");
}
