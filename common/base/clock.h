/* clock.h - the two clocks.  Durations use the monotonic one; deadlines that cross machines use
 * the wall clock in microseconds since 1970 (`_unix_us`). */
#ifndef TY_BASE_CLOCK_H
#define TY_BASE_CLOCK_H

#include <stdint.h>

int64_t ty_now_us(void);      /* CLOCK_MONOTONIC, microseconds */
int64_t ty_now_unix_us(void); /* CLOCK_REALTIME, microseconds since 1970 */

#endif
