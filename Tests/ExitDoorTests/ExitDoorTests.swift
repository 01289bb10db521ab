// The exit door
