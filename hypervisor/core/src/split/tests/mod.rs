//! The split over the views of a VM whose memory is maps: [`world`] is the guest and its processor's walk, [`properties`] any
//! operations against a flat model, [`cases`] what a guest can do that is worth its own name. [`gates`] has gates run by an [`interpreter`], [`passage`] has them come and go.

mod cases;
mod gates;
mod interpreter;
mod passage;
mod properties;
mod world;
