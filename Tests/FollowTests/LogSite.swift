import Core
import IO
import TestSupport
import Testing

/// A repository, a catalog with one store `shop-log` of service `shop`, and the built program that follows it.
final class LogSite: @unchecked Sendable {
  // Used by one task at a time.
  let home: TemporaryDirectory
  private let program: String
  private(set) var follower: PipedProcess?

  /// - Parameter store: The store's driver and options, as a manifest has them on one line.
  init(_ store: (TemporaryDirectory) -> String) async throws {
    home = try TemporaryDirectory("follow")
    program = try CommandRun.product("salvor")
    _ = try await salvor(
      "init", "--file", home.file("first.yaml"), "--repository", home.file("vault"), "--password-file",
      home.file("password")
    ).succeeded()
    try declare(store(home))
  }

  func declare(_ store: String) throws {
    let catalog = """
      apiVersion: salvor.dev/v1
      kind: Repository
      metadata: {name: main}
      spec: {location: "local:\(home.file("vault"))", password: "file:\(home.file("password"))"}
      ---
      apiVersion: salvor.dev/v1
      kind: Service
      metadata: {name: shop}
      spec:
        stores:
          - name: shop-log
            \(store)
      """
    try Files.replace(home.file("salvor.yaml"), with: Array(catalog.utf8))
  }

  private var environment: [String: String] {
    [
      "HOME": home.path, "SALVOR_STATE": home.file("state"), "SALVOR_CATALOG": home.file("salvor.yaml"),
      "NO_COLOR": "1",
    ]
  }

  func salvor(_ words: String...) async throws -> CommandRun { try await salvor(words) }

  func salvor(_ words: [String]) async throws -> CommandRun {
    try await CommandRun([program] + words, in: home.path, environment: environment)
  }

  func json(_ words: String...) async throws -> JSONValue {
    let ran = try await salvor(words + ["-o", "json"])
    return try CanonicalJSON.decode(JSONValue.self, from: Array(ran.output.utf8))
  }

  /// Brings the store back, and makes room for the next time.
  func restore(_ words: String...) async throws {
    try await salvor(["restore", "shop", "--yes", "-q"] + words).succeeded()
    try await salvor("run", "release", "latest", "--yes").succeeded()
  }

  // MARK: Following

  /// Returns once the first stretch is durable.
  func follow(_ words: String...) async throws {
    let started = try PipedProcess([program, "follow"] + words, in: home.path, environment: environment)
    follower = started
    try await until("the follower writes") { started.errors.contains("durable to") || !started.isRunning }
    try #require(started.isRunning, "\(started.errors)")
  }

  var said: String { follower?.errors ?? "" }

  /// - Returns: Its exit status.
  @discardableResult
  func stopFollowing() -> Int32 {
    follower?.terminate()
    return follower?.wait() ?? -1
  }

  func killFollower() { follower?.kill() }

  /// The value of the newest position that was said to be durable.
  var newestDurable: String? {
    said.split(separator: "\n").last { $0.contains("durable to ") }.flatMap { line in
      line.split(separator: " ").drop { $0 != "durable" }.dropFirst(3).first.map { String($0.prefix { $0 != "," }) }
    }
  }

  func until(_ what: String, seconds: Int = 60, _ isSo: () async throws -> Bool) async throws {
    for _ in 0..<seconds * 20 {
      if try await isSo() { return }
      try await Task.sleep(for: .milliseconds(50))
    }
    Issue.record("it never came to be that \(what): \(said)")
  }
}
