//! What started this process, as its environment says.

use std::sync::Arc;

use crate::{Collective, Error, Result, Solo};

/// The launchers that are known, each with the variable that holds its number of ranks.
const LAUNCHERS: [(&str, &str); 4] = [
    ("mpirun of OpenMPI (OMPI_COMM_WORLD_SIZE)", "OMPI_COMM_WORLD_SIZE"),
    ("mpirun of MPICH, or PMI (PMI_SIZE)", "PMI_SIZE"),
    ("srun (SLURM_STEP_NUM_TASKS)", "SLURM_STEP_NUM_TASKS"),
    ("torchrun (WORLD_SIZE)", "WORLD_SIZE"),
];

/// The ranks that this process was started as one of: with `mpirun` or `srun` those of MPI (feature `mpi`), and [`Solo`] where
/// no launcher has announced more than one rank.
///
/// # Errors
/// [`Error::Launcher`] where there are several ranks and no way to talk to them: the program was built without the feature,
/// or with another MPI than the launcher's; those of `Ranks::mpi`.
pub fn from_environment() -> Result<Arc<dyn Collective>> {
    let Some((launcher, world)) = announced(|name| std::env::var(name).ok()) else {
        return Ok(Arc::new(Solo));
    };
    connect(launcher, world)
}

/// The first launcher that announced several ranks, and their number.
fn announced(variable: impl Fn(&str) -> Option<String>) -> Option<(&'static str, usize)> {
    LAUNCHERS.iter().find_map(|&(launcher, name)| {
        let world = variable(name)?.trim().parse().ok()?;
        (world > 1).then_some((launcher, world))
    })
}

#[cfg(feature = "mpi")]
fn connect(launcher: &'static str, world: usize) -> Result<Arc<dyn Collective>> {
    if launcher.starts_with("torchrun") {
        let reason = "which does not start MPI: start ranks on CPUs by mpirun or srun";
        return Err(Error::Launcher { world, launcher, reason });
    }
    let ranks = crate::Ranks::mpi()?;
    if ranks.world() != world {
        let reason = "but its MPI knows of another number: it was built with another MPI than the launcher's (with srun, \
                      try --mpi=pmix or --mpi=pmi2)";
        return Err(Error::Launcher { world, launcher, reason });
    }
    Ok(Arc::new(ranks))
}

#[cfg(not(feature = "mpi"))]
fn connect(launcher: &'static str, world: usize) -> Result<Arc<dyn Collective>> {
    let reason =
        "but was built without the feature `mpi`: build it with --features mpi, or start one process";
    Err(Error::Launcher { world, launcher, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_is_one_that_announces_several_ranks() {
        let found = |name: &'static str, value: &'static str| {
            announced(move |asked| (asked == name).then(|| value.to_string()))
        };
        assert_eq!(found("OMPI_COMM_WORLD_SIZE", "4").map(|found| found.1), Some(4));
        assert_eq!(found("WORLD_SIZE", " 2\n").map(|found| found.1), Some(2));
        for (name, value) in [("PMI_SIZE", "1"), ("PMI_SIZE", "many"), ("HOME", "4")] {
            assert_eq!(found(name, value), None, "{name}={value}");
        }
    }

    #[cfg(not(feature = "mpi"))]
    #[test]
    fn several_ranks_without_the_feature_are_an_error() {
        let error = connect("mpirun", 2).unwrap_err().to_string();
        assert!(error.contains("--features mpi"), "{error}");
    }
}
