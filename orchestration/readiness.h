/* readiness.h - does all that `tyto up` started answer?  Its stores to PING, its gateways to /readyz. */
#ifndef TY_READINESS_H
#define TY_READINESS_H

#include "orchestration/fleet.h"

enum { GATEWAY_NAME = 64 };

/* False: why (text of SUPERVISOR_PROBE_TEXT bytes) names the first that does not, and what it waits for. */
bool fleet_ready(const fleet *f, char *why);

/* The same of one gateway anywhere: base "http://host:8080".  name (GATEWAY_NAME bytes): which answered, "" when none did. */
bool gateway_ready(const char *base, char *name, char *why);

#endif
