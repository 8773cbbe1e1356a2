// The library that draws the page, under the names by which the modules use it. A component returns one element, or null: of several at its
// root this version loses some when it draws them anew. Blanks that hold a line's end count for nothing.
export { h, html, render, Component, useEffect, useMemo, useReducer, useRef, useState } from "/page/vendor/preact-htm.js";
