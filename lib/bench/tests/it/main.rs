//! The whole benchmark against servers on real sockets that answer as scripted: well, badly, and
//! not at all.

#[cfg(test)]
mod failures;
#[cfg(test)]
mod loads;
#[cfg(test)]
mod server;
#[cfg(test)]
mod watching;
