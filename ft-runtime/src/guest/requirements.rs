//! What kernel and processor must be able to do for a guest, looked at before there is one: in the guest it would be an
//! assertion that fails.

use super::error::LaunchError;
use std::fs;
use std::io;

const KERNEL_MIN: (u32, u32) = (6, 9);
const PR_SET_SYSCALL_USER_DISPATCH: libc::c_int = 59;
const PR_SYS_DISPATCH_OFF: libc::c_ulong = 0;
/// In AT_HWCAP2: programs may use rdfsbase and its like.
const HWCAP2_FSGSBASE: libc::c_ulong = 1 << 1;

pub(crate) fn check() -> Result<(), LaunchError> {
    let missing = |feature: String, advice| Err(LaunchError::Missing { feature, advice });
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_err(LaunchError::prepare("reading the kernel's release", "is /proc mounted?"))?;
    let (release, (major, minor)) = (release.trim(), KERNEL_MIN);
    if is_older(release, KERNEL_MIN) {
        return missing(
            format!("Linux {major}.{minor}, this is {release}"),
            "boot a newer kernel (Debian 12: linux-image-amd64 from bookworm-backports)",
        );
    }
    // SAFETY: no pointers. It is off in this thread, and stays off.
    if unsafe { libc::prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0) } != 0 {
        return missing(
            format!("Syscall User Dispatch (prctl says: {})", io::Error::last_os_error()),
            "have a kernel with CONFIG_GENERIC_ENTRY, and a container's seccomp profile that allows it",
        );
    }
    // SAFETY: takes a number and reads this process's own vector.
    if unsafe { libc::getauxval(libc::AT_HWCAP2) } & HWCAP2_FSGSBASE == 0 {
        return missing(
            "the instruction wrfsbase, `fsgsbase` in /proc/cpuinfo".into(),
            "boot without `nofsgsbase`; a hypervisor must pass it on",
        );
    }
    Ok(())
}

/// What can't be read is taken for new: what it lacks is found otherwise.
fn is_older(release: &str, (major, minor): (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(a), Some(b)) => (a, b) < (major, minor),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        for old in ["5.10.0-28-amd64", "6.1.0-18-cloud-amd64", "6.8.12"] {
            assert!(is_older(old, KERNEL_MIN), "{old}");
        }
        for new in ["6.9.0", "6.10.3-rc1", "6.18.5", "7.0", "of my own"] {
            assert!(!is_older(new, KERNEL_MIN), "{new}");
        }
    }
}
