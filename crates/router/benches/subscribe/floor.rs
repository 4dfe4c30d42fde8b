//! What the machine gives without any of our code.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use super::{Cost, server::thread_cpu};

/// Moves bytes through a loopback socket in writes of this size.
pub(crate) fn tcp(write: u64, cell: Duration) -> Cost {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let reader = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 1 << 20];
        while socket.read(&mut buffer).unwrap() > 0 {}
    });
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_nodelay(true).unwrap();
    // As many different bytes as a journal would give, so that the cache does not help.
    let data: Vec<u8> = vec![7; write as usize * 400];
    let (begin, cpu) = (Instant::now(), thread_cpu());
    let mut bytes = 0;
    'cell: loop {
        for piece in data.chunks(write as usize) {
            socket.write_all(piece).unwrap();
            bytes += piece.len() as u64;
            if begin.elapsed() >= cell {
                break 'cell;
            }
        }
    }
    let cost = Cost { bytes, wall: begin.elapsed(), cpu: thread_cpu() - cpu, passes: 1 };
    drop(socket);
    reader.join().unwrap();
    cost
}

/// Blocks per second of `pwrite`, with one `fdatasync` per `group`, over a file that was written
/// before: no allocation, no growth.
pub(crate) fn disk(dir: &Path, block: &[u8], group: usize, cell: Duration) -> f64 {
    let file = std::fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join("floor"))
        .unwrap();
    let slots = 256u64;
    if file.metadata().unwrap().len() == 0 {
        for slot in 0..slots {
            file.write_all_at(block, slot * block.len() as u64).unwrap();
        }
        file.sync_all().unwrap();
    }
    let begin = Instant::now();
    let mut blocks = 0u64;
    while begin.elapsed() < cell {
        for _ in 0..group {
            file.write_all_at(block, blocks % slots * block.len() as u64).unwrap();
            blocks += 1;
        }
        file.sync_data().unwrap();
    }
    blocks as f64 / begin.elapsed().as_secs_f64()
}
