/* draw.h - an object of each kind, drawn with cairo. */
#ifndef OWLET_DRAW_H
#define OWLET_DRAW_H

#include "training/owlet/scene.h"

#include <cairo/cairo.h>

/* Draws o on a picture of side w x h pixels (coordinates of o are shares of each side). */
void draw_object(cairo_t *cr, const object *o, double w, double h, chance *c);

#endif
