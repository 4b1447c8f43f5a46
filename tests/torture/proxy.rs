//! A TCP proxy between walcat and PostgreSQL that can cut, hold and slow what goes through it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What becomes of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// They pass.
    Pass,
    /// Connections are closed, new ones too.
    Cut,
    /// Nothing passes, and nobody is told: a network that drops packets.
    Hold,
    /// Each piece waits a while.
    Slow,
}

/// The proxy; ends with the process.
pub struct Proxy {
    port: u16,
    mode: Arc<AtomicU8>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    pub fn start(target: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("a port").port();
        let mode = Arc::new(AtomicU8::new(Mode::Pass as u8));
        let connections: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let (shared_mode, shared_connections) = (Arc::clone(&mode), Arc::clone(&connections));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared_mode.load(Ordering::Relaxed) == Mode::Cut as u8 {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                let mut open = shared_connections.lock().expect("connections");
                for (from, to) in [(&client, &server), (&server, &client)] {
                    open.push(from.try_clone().expect("a socket"));
                    let (from, to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
                    let mode = Arc::clone(&shared_mode);
                    std::thread::spawn(move || forward(from, to, &mode));
                }
            }
        });
        Proxy { port, mode, connections }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
        if mode == Mode::Cut {
            for connection in self.connections.lock().expect("connections").drain(..) {
                let _ = connection.shutdown(Shutdown::Both);
            }
        }
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, mode: &AtomicU8) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 {
            break;
        }
        while mode.load(Ordering::Relaxed) == Mode::Hold as u8 {
            std::thread::sleep(Duration::from_millis(20));
        }
        if mode.load(Ordering::Relaxed) == Mode::Slow as u8 {
            std::thread::sleep(Duration::from_millis(30));
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
