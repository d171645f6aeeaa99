// <linux/kvm.h> as C++ needs it. Headers before Linux 6.7 declare flexible arrays through an empty struct, which C++
// gives a size: kvm_cpuid2, kvm_msrs and kvm_xsave then have the wrong layout, and their ioctls the wrong number.
#pragma once

#include <linux/stddef.h>

#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(type, member) type member[0]

#include <linux/kvm.h>

static_assert(sizeof(kvm_cpuid2) == 8 && sizeof(kvm_msrs) == 8 && sizeof(kvm_xsave) == 4096,
              "include kvm/kvm_api.h before anything that includes <linux/kvm.h>");
