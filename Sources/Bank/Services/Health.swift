import Hummingbird

/// Adds `/health`, which says whether the store answers, and `/ready`, which says whether to send work.
func addHealth(
  to routes: Routes, _ service: Service, ping: @escaping @Sendable () async throws -> Void,
  warmUp: @escaping @Sendable () async throws -> Void = {}
) {
  routes.get("/health") { _, _ in
    try await ping()
    return try json(Health(ok: true, service: service.rawValue))
  }
  routes.get("/ready") { _, _ in
    try await ping()
    try await warmUp()
    return try json(Health(ok: true, service: service.rawValue))
  }
}
