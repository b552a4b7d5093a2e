//! Rows in which messages flow from publishers to subscribers.

use anyhow::Result;
use protocol::QoS;

use super::{Bench, WINDOW};
use crate::{
    flow::{Flow, Shape, Until},
    report::Figure,
};

/// Messages of the whole load before the measured ones, as a part of them.
const WARM_UP: f64 = 0.15;

impl Bench<'_> {
    pub(super) fn fan_in(&mut self, publishers: usize, shape: Shape) -> Result<Vec<Figure>> {
        self.subscribers(vec!["in/+".to_owned()], shape.qos, true)?;
        let mut flow = Flow::new(shape);
        for (number, link) in self.publishers(publishers)?.into_iter().enumerate() {
            flow.publisher(&self.clients, link, &[format!("in/{number}")])?;
        }
        self.measure(flow)
    }

    pub(super) fn pairs(&mut self, pairs: usize, shape: Shape) -> Result<Vec<Figure>> {
        let topics: Vec<String> = (0..pairs).map(|number| format!("pair/{number}")).collect();
        self.subscribers(topics.clone(), shape.qos, true)?;
        let mut flow = Flow::new(shape);
        for (topic, link) in topics.into_iter().zip(self.publishers(pairs)?) {
            flow.publisher(&self.clients, link, &[topic])?;
        }
        self.measure(flow)
    }

    pub(super) fn fan_out(&mut self, subscribers: usize, qos: QoS) -> Result<Vec<Figure>> {
        self.subscribers(vec!["out".to_owned(); subscribers], qos, true)?;
        let mut flow = Flow::new(Shape::new(qos, subscribers as u64, WINDOW));
        let link = self.publishers(1)?[0];
        flow.publisher(&self.clients, link, &["out".to_owned()])?;
        self.measure(flow)
    }

    /// Warms up, then measures what a delivered message (or, without deliveries, an accepted one) costs.
    pub(super) fn measure(&mut self, mut flow: Flow) -> Result<Vec<Figure>> {
        let deliveries = flow.shape.fan_out.max(1);
        let until = |part: f64| Until {
            seconds: self.bounds.seconds * part,
            messages: ((self.bounds.messages as f64 * part) as u64).div_ceil(deliveries),
        };
        let (warm_up, measured) = (until(WARM_UP), until(1.0));
        flow.run(&mut self.clients, warm_up)?;
        let begun = self.begin()?;
        let published = flow.run(&mut self.clients, measured)?;
        let mut figures = vec![self.cpu("µs/message", published * deliveries, &begun)?];
        if flow.shape.rate.is_some() {
            for (unit, quantile) in [("ms, p50", 0.5), ("ms, p99", 0.99)] {
                let value = flow.latency.value_at_quantile(quantile) as f64 / 1e6;
                figures.push(Figure { value, count: flow.latency.len(), ..Figure::new(unit) });
            }
        }
        Ok(figures)
    }
}
