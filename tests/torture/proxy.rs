//! The network between walcat and one server: a TCP proxy that can be cut, slowed, or blocked in one direction.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often a stalled direction checks whether it may continue.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The state of the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weather {
    #[default]
    Fair,
    /// Connections are reset, new ones at once.
    Cut,
    /// No bytes go through, and no error is reported.
    Stalled,
    /// Bytes to the server go through; its answers do not.
    AnswersStalled,
    /// Each piece of a few kB is delayed.
    Slow(Duration),
}

#[derive(Default)]
struct Shared {
    weather: Weather,
    /// The server's port.
    target: u16,
    /// The number of connections so far.
    accepted: u64,
    /// Connections up to this number no longer forward bytes.
    lost: u64,
    connections: Vec<TcpStream>,
}

type State = Arc<Mutex<Shared>>;

/// Listens until the process ends.
pub struct Proxy {
    port: u16,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

fn with<T>(state: &State, act: impl FnOnce(&mut Shared) -> T) -> T {
    act(&mut state.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Proxy {
    /// To a port of this machine.
    pub fn start(target: u16) -> std::io::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let state: State = Arc::new(Mutex::new(Shared { target, ..Shared::default() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                accept(client, &shared);
            }
        });
        Ok(Proxy { port, state })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Existing connections stop forwarding without an error; new connections work.
    #[allow(dead_code, reason = "the integration tests' own")]
    pub fn lose(&self) {
        with(&self.state, |state| state.lost = state.accepted);
    }

    /// New connections go to another server of this machine.
    #[allow(dead_code, reason = "the torture's own")]
    pub fn lead_to(&self, target: u16) {
        with(&self.state, |state| state.target = target);
    }

    pub fn set(&self, weather: Weather) {
        with(&self.state, |state| {
            state.weather = weather;
            if weather == Weather::Cut {
                for connection in state.connections.drain(..) {
                    let _ = connection.shutdown(Shutdown::Both);
                }
            }
        });
    }
}

fn accept(client: TcpStream, state: &State) {
    let (weather, target) = with(state, |state| (state.weather, state.target));
    if weather == Weather::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)) else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (Ok(client2), Ok(server2), Ok(client3), Ok(server3)) =
        (client.try_clone(), server.try_clone(), client.try_clone(), server.try_clone())
    else {
        return;
    };
    let number = with(state, |state| {
        // Removes closed connections from time to time.
        if state.connections.len() > 64 {
            state.connections.retain(|connection| connection.peer_addr().is_ok());
        }
        state.connections.extend([client3, server3]);
        state.accepted += 1;
        state.accepted
    });
    let (state1, state2) = (Arc::clone(state), Arc::clone(state));
    std::thread::spawn(move || carry(client, server, Way::ToServer, number, &state1));
    std::thread::spawn(move || carry(server2, client2, Way::ToClient, number, &state2));
}

fn carry(mut from: TcpStream, mut to: TcpStream, way: Way, number: u64, state: &State) {
    let mut buffer = vec![0; 8 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        loop {
            let weather = |state: &mut Shared| if number <= state.lost { Weather::Stalled } else { state.weather };
            match (with(state, weather), way) {
                (Weather::Fair | Weather::Cut, _) | (Weather::AnswersStalled, Way::ToServer) => break,
                (Weather::Slow(delay), _) => {
                    std::thread::sleep(delay);
                    break;
                }
                (Weather::Stalled, _) | (Weather::AnswersStalled, Way::ToClient) => std::thread::sleep(LOOK_INTERVAL),
            }
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that echoes its input.
    fn echo() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut byte = [0];
                    while let Ok(1) = stream.read(&mut byte) {
                        let _ = stream.write_all(&byte);
                    }
                });
            }
        });
        port
    }

    #[test]
    fn the_proxy_carries_stalls_and_cuts() {
        let proxy = Proxy::start(echo()).expect("a proxy");
        let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).expect("a connection");
        client.set_read_timeout(Some(Duration::from_millis(300))).expect("a time-out");
        let mut byte = [0];
        client.write_all(b"a").expect("sent");
        assert_eq!(client.read(&mut byte).expect("an answer"), 1);
        proxy.set(Weather::AnswersStalled);
        client.write_all(b"b").expect("sent");
        assert!(client.read(&mut byte).is_err(), "an answer came through");
        proxy.set(Weather::Fair);
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
        assert_eq!((client.read(&mut byte).expect("an answer"), byte), (1, *b"b"));
        proxy.set(Weather::Cut);
        assert_eq!(client.read(&mut byte).unwrap_or(0), 0);
    }
}
