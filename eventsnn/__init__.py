"""eventsnn: spiking neural networks, one spike at a time, with an exact account."""
