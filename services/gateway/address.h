/*
 * address.h - is an address one of the public internet?  What is not may be this machine, its network, or a cloud's
 * own services, and must not be reached on a client's word.
 */
#ifndef GATEWAY_ADDRESS_H
#define GATEWAY_ADDRESS_H

#include <stdbool.h>
#include <sys/socket.h>

/* IPv4, and IPv6 with an IPv4 address inside (mapped, NAT64), by IANA's registries of special-purpose addresses; IPv6 else
 * only global unicast.  Every other family is not public. */
bool address_is_public(const struct sockaddr *a);

#endif
