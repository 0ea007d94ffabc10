"""The live worker: a service beside the flows, for the pages' live questions."""
