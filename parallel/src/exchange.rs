//! Gradients, averaged over a group while the backward pass that makes them still runs.

use std::ffi::c_void;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tch::{Kind, Tensor};

use crate::group::Pending;
use crate::{Error, Group, shim};

/// Averages the gradients of a network's variables, which lie one behind the other in one buffer.
///
/// The buffer is cut into buckets of whole variables. As soon as a backward pass has made all gradients of a bucket, its sum over the
/// group begins, and runs while the pass goes on to the layers before. All processes begin the sums in one order: that in which process 0
/// had the buckets ready in the first pass, whose sums therefore begin after it.
#[derive(Debug)]
pub struct Exchange {
    group: Group,
    /// (P), all gradients.
    gradients: Tensor,
    variables: Vec<Tensor>,
    /// Boxed, since autograd holds its address.
    pass: Box<Mutex<Pass>>,
}

#[derive(Debug)]
struct Pass {
    group: Group,
    buckets: Vec<Bucket>,
    /// The bucket of each variable.
    bucket_of: Vec<usize>,
    order: Option<Vec<usize>>,
    /// Buckets that are ready, in the order in which they became so.
    ready: Vec<usize>,
    begun: Vec<Pending>,
    /// Whether the pass that runs is the one whose gradients are final.
    last: bool,
    failed: Option<Error>,
}

#[derive(Debug)]
struct Bucket {
    /// A view of its part of the buffer.
    gradients: Tensor,
    variables: usize,
    /// Variables whose gradient the pass has not made yet.
    missing: usize,
}

impl Exchange {
    /// For `variables`, whose gradients are views of `gradients` (P) in the same order and leave no gap. A bucket has at least `least`
    /// numbers, but for the last.
    ///
    /// # Errors
    /// [`Error::Torch`] if the variables do not fill `gradients`.
    pub fn new(group: &Group, gradients: &Tensor, variables: Vec<Tensor>, least: i64) -> Result<Self, Error> {
        let (mut buckets, mut bucket_of) = (Vec::new(), Vec::with_capacity(variables.len()));
        let (mut start, mut end, mut members) = (0, 0, 0);
        for (index, variable) in variables.iter().enumerate() {
            end += variable.numel() as i64;
            members += 1;
            bucket_of.push(buckets.len());
            if end - start >= least || index + 1 == variables.len() {
                let gradients = gradients.f_narrow(0, start, end - start)?;
                buckets.push(Bucket { gradients, variables: members, missing: members });
                (start, members) = (end, 0);
            }
        }
        if end != gradients.numel() as i64 {
            let count = gradients.numel();
            return Err(Error::Torch(format!("{end} numbers in the variables, {count} in their gradients")));
        }
        let pass = Pass {
            group: group.clone(),
            buckets,
            bucket_of,
            order: None,
            ready: Vec::new(),
            begun: Vec::new(),
            last: false,
            failed: None,
        };
        let (group, gradients) = (group.clone(), gradients.shallow_clone());
        let exchange = Self { group, gradients, variables, pass: Box::new(Mutex::new(pass)) };
        if exchange.group.world() > 1 {
            exchange.watch()?;
        }
        Ok(exchange)
    }

    fn watch(&self) -> Result<(), Error> {
        let context = (&raw const *self.pass).cast_mut().cast::<c_void>();
        for (index, variable) in self.variables.iter().enumerate() {
            // SAFETY: `drop` ends the calls of `made` before `pass` goes
            let watched =
                unsafe { shim::checked(shim::acdit_watch_gradient(variable.as_ptr(), made, context, index)) };
            watched.map_err(Error::Torch)?;
        }
        Ok(())
    }

    /// Says that the next backward pass completes the gradients: those of passes before, if any, have been added up.
    pub fn begin(&self) {
        let mut pass = lock(&self.pass);
        for bucket in &mut pass.buckets {
            bucket.missing = bucket.variables;
        }
        pass.ready.clear();
        pass.last = true;
    }

    /// Returns once the gradients are their mean over the group.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn finish(&self) -> Result<(), Error> {
        if self.group.world() == 1 {
            return Ok(());
        }
        let begun = {
            let mut pass = lock(&self.pass);
            pass.last = false;
            pass.agree_on_order()?;
            // a bucket has variables that this loss did not depend on: their gradients are final, too
            for bucket in &mut pass.buckets {
                bucket.missing = 0;
            }
            pass.begin_ready();
            if let Some(error) = pass.failed.take() {
                return Err(error);
            }
            std::mem::take(&mut pass.begun)
        };
        begun.into_iter().try_for_each(Pending::wait)?;
        let mean = 1.0 / self.group.world() as f64;
        let _ = tch::no_grad(|| self.gradients.shallow_clone().f_mul_scalar_(mean))?;
        Ok(())
    }
}

impl Pass {
    /// Process 0's order of the first pass becomes everyone's.
    fn agree_on_order(&mut self) -> Result<(), Error> {
        if self.order.is_none() {
            let rest = (0..self.buckets.len()).filter(|bucket| !self.ready.contains(bucket));
            let own: Vec<i64> = self.ready.iter().copied().chain(rest).map(|bucket| bucket as i64).collect();
            let order = Tensor::from_slice(&own);
            self.group.broadcast(&order)?;
            let order = Vec::<i64>::try_from(order.to_kind(Kind::Int64))?;
            self.order = Some(order.into_iter().map(|bucket| bucket as usize).collect());
        }
        Ok(())
    }

    /// Begins the sums whose turn it is and whose gradients are there.
    fn begin_ready(&mut self) {
        let Some(order) = &self.order else { return };
        while let Some(bucket) = order.get(self.begun.len()).map(|&index| &self.buckets[index]) {
            if bucket.missing > 0 || self.failed.is_some() {
                return;
            }
            match self.group.start_sum(&bucket.gradients) {
                Ok(pending) => self.begun.push(pending),
                Err(error) => self.failed = Some(error),
            }
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.group.world() > 1 {
            for variable in &self.variables {
                // SAFETY: a live tensor
                unsafe { shim::acdit_unwatch_gradient(variable.as_ptr()) };
            }
        }
    }
}

/// Called by autograd for each variable whose gradient it has made.
extern "C" fn made(context: *mut c_void, index: usize) {
    // SAFETY: the address of an exchange's `pass`, which outlives its watching
    let mut pass = lock(unsafe { &*context.cast::<Mutex<Pass>>() });
    let bucket = pass.bucket_of[index];
    if !pass.last || pass.buckets[bucket].missing == 0 {
        return;
    }
    pass.buckets[bucket].missing -= 1;
    if pass.buckets[bucket].missing == 0 {
        pass.ready.push(bucket);
        pass.begin_ready();
    }
}

fn lock(pass: &Mutex<Pass>) -> MutexGuard<'_, Pass> {
    pass.lock().unwrap_or_else(PoisonError::into_inner)
}
