//! The simulation's scenarios, replayed.

#[cfg(test)]
mod cluster;
#[cfg(test)]
mod echo;
