//! Serial lines, tested over pseudo terminals.

mod can;
mod gps;
mod gpsd;
mod lock;
mod pty;
