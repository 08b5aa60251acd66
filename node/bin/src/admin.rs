//! The admin port: `/livez`, `/readyz` and `/metrics` over HTTP/1, and the signals. On a thread of its own, so that a node
//! that recovers, or whose shards are busy, still says how it is. Bounded: connections, header bytes and the time for
//! them; it changes nothing but the begin of a drain, which only a signal asks for.

use crate::exit::{Exit, Failure};
use crate::health::Health;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

/// Connections served at once. A scraper and a prober need two.
pub(crate) const CONNECTIONS_MAX: usize = 32;
/// The largest head of a request.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a head, and so an idle connection, may take.
const HEAD_TIME_MAX: Duration = Duration::from_secs(30);
const PATHS: &str = "/livez, /readyz, /metrics\n";

/// The first signals, once each; the second ends the process at once with the signal's own code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Signal {
    Interrupt,
    Terminate,
}

impl Signal {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }

    /// What a shell reports for a process that this signal ended.
    pub(crate) const fn exit_code(self) -> i32 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// Binds the admin port.
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    let listener = TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    listener.map_err(|error| crate::listen::refused("admin_listen", address, &error))
}

/// Starts the thread. `on_signal` is told of the first signal and answers whether there is something to wait for; when there
/// is not, the process ends at once.
pub(crate) fn start(
    listener: TcpListener,
    health: Arc<Health>,
    on_signal: impl Fn(Signal) -> bool + Send + 'static,
) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(
            Exit::Failed,
            format!("the admin thread cannot start: {error}"),
        )
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let thread = std::thread::Builder::new().name("admin".to_owned());
    let run = move || {
        runtime.block_on(async move {
            tokio::spawn(signals(on_signal));
            serve(listener, health).await;
        });
    };
    thread.spawn(run).map(drop).map_err(failed)
}

async fn signals(on_signal: impl Fn(Signal) -> bool) {
    let (interrupts, terminations) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    );
    let (Ok(mut interrupts), Ok(mut terminations)) = (interrupts, terminations) else {
        tracing::warn!(
            "signals cannot be watched: SIGINT and SIGTERM end the process without a drain"
        );
        return;
    };
    let mut is_first = true;
    loop {
        let signal = tokio::select! {
            _ = interrupts.recv() => Signal::Interrupt,
            _ = terminations.recv() => Signal::Terminate,
        };
        if !is_first || !on_signal(signal) {
            tracing::warn!(
                signal = signal.name(),
                "ends at once; acknowledged events are safe"
            );
            std::process::exit(signal.exit_code());
        }
        is_first = false;
    }
}

async fn serve(listener: TcpListener, health: Arc<Health>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the admin port does not serve");
            return std::future::pending().await;
        }
    };
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: they come back when connections end.
                tracing::warn!(%error, "the admin port cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let health = Arc::clone(&health);
        tokio::spawn(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let response = answer(request.method(), request.uri().path(), &health);
                async move { Ok::<_, Infallible>(response) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME_MAX)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), answer)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "a connection to the admin port ended early");
            }
            drop(permit);
        });
    }
}

fn answer(method: &Method, path: &str, health: &Health) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n".to_owned());
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/livez" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => match health.unready() {
            // Readers are served as ever, so nobody is sent away for it.
            None if health.is_read_only() => text(
                StatusCode::OK,
                "ready, read-only: the disk is full, and appends are refused until there is room\n"
                    .to_owned(),
            ),
            None if health.damaged() > 0 => text(
                StatusCode::OK,
                format!(
                    "ready, damaged: {} places of the journal cannot be read, and the log names them\n",
                    health.damaged()
                ),
            ),
            None => text(StatusCode::OK, "ready\n".to_owned()),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        "/metrics" => {
            let mut response = text(StatusCode::OK, health.metrics());
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        _ => text(StatusCode::NOT_FOUND, PATHS.to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Phase;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    fn status(path: &str, health: &Health) -> u16 {
        answer(&Method::GET, path, health).status().as_u16()
    }

    #[test]
    fn a_node_lives_before_it_is_ready() {
        let health = Health::default();
        assert_eq!(
            (status("/livez", &health), status("/readyz", &health)),
            (200, 503)
        );
        health.attach(Vec::new());
        health.enter(Phase::Running);
        assert_eq!(
            (status("/livez", &health), status("/readyz", &health)),
            (200, 200)
        );
        health.enter(Phase::Draining);
        assert_eq!(
            (status("/livez", &health), status("/readyz", &health)),
            (200, 503)
        );
        assert_eq!(status("/metrics", &health), 200);
        assert_eq!(status("/", &health), 404);
        assert_eq!(
            answer(&Method::POST, "/livez", &health).status().as_u16(),
            405
        );
    }

    #[test]
    fn it_speaks_http_on_a_socket() {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let address = listener.local_addr().expect("bound");
        start(listener, Arc::new(Health::default()), |_| false).expect("a thread");
        let mut stream = TcpStream::connect(address).expect("it listens");
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        assert!(
            answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("recovering\n"),
            "{answer}"
        );
    }
}
