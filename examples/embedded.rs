//! An SDS server inside your own program: a source, a configuration, and every event as a typed value.
//!
//! ```sh
//! spiffe-sds dev --socket /tmp/agent.sock --rotate-every 3s &
//! cargo run --example embedded -- unix:///tmp/agent.sock /tmp/sds.sock
//! ```

#![allow(clippy::print_stdout, reason = "an example for a terminal")]

use std::env;

use spiffe_sds::{
    app::App,
    config::{Config, Flag, Sources},
    lifecycle,
    server::StreamEvent,
    source::RenewalEvent,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let endpoint = arguments.next().unwrap_or_else(|| "unix:///tmp/agent.sock".to_owned());
    let socket = arguments.next().unwrap_or_else(|| "/tmp/sds.sock".to_owned());

    // The same keys as in a configuration file; every problem is reported at once.
    let set = |key: &str, value: String| Flag { flag: "embedded", key: key.to_owned(), value };
    let flags = vec![set("source.workload_api.endpoint", endpoint), set("listeners", format!("unix://{socket}"))];
    let config = Config::new(&Sources { flags, ..Sources::default() })?;

    // Bound is not yet running: Envoys may connect already and wait.
    let app = App::bind(&config).await?;
    for listener in app.bound() {
        println!("serving on {listener}");
    }

    let (mut renewals, mut streams) = (app.renewals(), app.streams());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Ok(event) = renewals.recv() => match event {
                    RenewalEvent::Renewed { spiffe_id, serial, .. } => println!("renewed {spiffe_id} serial {serial}"),
                    other => println!("{}", other.name()),
                },
                Ok(event) = streams.recv() => match event {
                    StreamEvent::Acked { client, name, latency, .. } => println!("{client} took {name} after {latency:?}"),
                    StreamEvent::Nacked { client, name, detail, .. } => println!("{client} refused {name}: {detail}"),
                    _ => {}
                },
                else => break,
            }
        }
    });

    app.run(lifecycle::stop_on_signals(|| {})?).await?;
    Ok(())
}
