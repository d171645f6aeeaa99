// Fills the pages of the supervisor part. Each function gets the host's view of one zeroed page.
#pragma once

#include "core/types.h"

namespace rf::ring0 {

// For interpreted ring 0: every entry only halts, since each further instruction would cost a microsecond.
void write_halting_stub(void* page);
// For native ring 0 (stub.S).
void write_saving_stub(void* page, bool fsgsbase);
// Guest addresses in the saving stub: where the host resumes it, and the end of what leads to ring 3 from there.
struct ResumeCode {
  u64 start, end;
};
ResumeCode resume_code(bool fsgsbase);

void write_gdt(void* page);
void write_idt(void* page);
// `stack_top`: guest address that RSP0 and every IST entry get.
void write_tss(void* page, u64 stack_top);

}  // namespace rf::ring0
