import Core
import IO
import RepositoryServer
import TestSupport

/// Runs a server of ours in this process, on a free port, while `body` runs.
func withServer<T: Sendable>(
  _ settings: ServerSettings, log: @escaping @Sendable (String) -> Void = { _ in },
  _ body: @escaping @Sendable (Int) async throws -> T
) async throws -> T {
  var settings = settings
  settings.port = 0
  let server = RepositoryServer(settings, log: log)
  let (ports, continuation) = AsyncStream<Int>.makeStream()
  return try await withThrowingTaskGroup(of: T?.self) { group in
    group.addTask {
      defer { continuation.finish() }
      do { try await server.run { continuation.yield($0) } } catch is CancellationError {}
      return nil
    }
    group.addTask {
      for await port in ports { return try await body(port) }
      return nil
    }
    defer { group.cancelAll() }
    while let result = try await group.next() { if let result { return result } }
    throw CommandRun.Failed(description: "the server ended before it was ready")
  }
}

/// A server on a port that is free; another one is tried if somebody took it first.
private func started(_ start: (UInt16) throws -> ServerProcess) throws -> ServerProcess {
  for _ in 0..<4 {
    do { return try start(try freePort()) } catch let failure as CommandRun.Failed {
      guard failure.description.lowercased().contains("address already in use") else { throw failure }
    }
  }
  return try start(try freePort())
}

/// `rclone serve restic` on a directory.
func rcloneServer(_ directory: String, _ more: [String] = [], environment: [String: String] = [:]) throws
  -> ServerProcess
{
  try started { port in
    try ServerProcess(
      port: port,
      ["rclone", "serve", "restic", "--config", "/dev/null", "--addr", "127.0.0.1:\(port)"] + more + [directory],
      environment: environment)
  }
}

/// A program the tests need, from where `scripts/setup test` puts it, or from the PATH.
func tool(_ name: String) -> String {
  var root = #filePath
  for _ in 0..<3 { root = Files.parent(of: root) }
  let own = "\(root)/.build/test-tools/bin/\(name)"
  return Files.exists(own) ? own : name
}

/// Moto: conditional writes, parts, roles; believes every signature.
func motoServer() throws -> ServerProcess {
  try started { port in
    try ServerProcess(port: port, [tool("moto_server"), "-H", "127.0.0.1", "-p", "\(port)"])
  }
}

/// rclone on a directory: checks signatures, and overwrites without asking.
func rcloneS3(_ directory: String) throws -> ServerProcess {
  try started { port in
    try ServerProcess(
      port: port,
      [
        tool("rclone"), "serve", "s3", "--config", "/dev/null", "--addr", "127.0.0.1:\(port)", "--auth-key",
        "test-access,test-secret", directory,
      ])
  }
}
