/* big.c - see big.h. */
#include "common/base/big.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20, LINE = 64 };

void *ty_big_alloc(size_t bytes) {
    size_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : LINE;
    if (bytes > SIZE_MAX - align) return NULL;
    size_t size = bytes > 0 ? (bytes + align - 1) / align * align : LINE;
    void *p = aligned_alloc(align, size);
    if (p && align == HUGE_PAGE) (void)madvise(p, size, MADV_HUGEPAGE); /* only a hint */
    return p;
}
