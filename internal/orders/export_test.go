package orders

// PlaceAll places what came at the same time.
var PlaceAll = (*Service).placeAll
