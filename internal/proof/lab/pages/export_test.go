package pages

// Highlighted is for tests.
var Highlighted = highlighted
