package load

// PreciseSleep is the default of Open.Sleep.
var PreciseSleep = preciseSleep
