// ServiceExec
