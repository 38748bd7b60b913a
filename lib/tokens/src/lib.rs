//! Token blocks, block hashes and chained sequence hashes.
