// Landlock: which host files this process may open from now on, whatever the code that opens them says. Internal to
// hostio.
#pragma once

#include <span>

#include "core/result.h"
#include "hostio/fd.h"
#include "hostio/lockdown.h"

namespace rf::hostio {

// A ruleset that allows reading beneath `trees`, and changing what is beneath those that are writable; an invalid
// descriptor where the host's kernel has no Landlock. With `scope_signals` it also keeps signals within the process.
Setup<HostFd> make_landlock_ruleset(std::span<const HostTree> trees, bool scope_signals);

// Binds the calling thread to it for good; needs no_new_privs. Nothing for an invalid descriptor.
Setup<void> restrict_to_ruleset(const HostFd& ruleset);

}  // namespace rf::hostio
