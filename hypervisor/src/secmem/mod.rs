//! The secure memory manager's effects; what it decides is in `bulkhead_core::secmem`.

pub mod tmemk;
