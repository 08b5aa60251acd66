//! What every driver of a machine must do, on real sockets of the loopback and on real files. Written against `Machine`
//! and nothing else of a driver's inside: `world::start` is the one place that names the driver, so that another driver
//! can be held to the same suite. Waits for events, never for time.

mod files;
mod pressure;
mod sockets;
mod threads;
mod world;
