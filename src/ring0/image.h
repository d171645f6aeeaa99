// Fills the pages of the supervisor part. Each function gets the host's view of one zeroed page.
#pragma once

#include "core/types.h"

namespace rf::ring0 {

void write_stub(void* page);
void write_gdt(void* page);
void write_idt(void* page);
// `stack_top`: guest address that RSP0 and every IST entry get.
void write_tss(void* page, u64 stack_top);

}  // namespace rf::ring0
