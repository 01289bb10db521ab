import Catalog
import Core
import Demo
import Drills
import Foundation
import IO
import Recovery
import Runtime
import StateKit
import Synchronization
import TestSupport

/// Weeks that pass in a moment: the machine's clock, put forward by hand.
final class CompressedTime: Timekeeper {
  private let ahead = Mutex<Int64>(0)

  func now() -> Timestamp { SystemTime().now() + .nanoseconds(ahead.withLock { $0 }) }
  func monotonicNanoseconds() -> Int64 { SystemTime().monotonicNanoseconds() }
  func sleep(for duration: Duration) async throws { try await SystemTime().sleep(for: duration) }
  func pass(_ duration: Duration) { ahead.withLock { $0 += duration.wholeNanoseconds } }
}

/// A bank that runs, has a point, and practises.
final class DrillBank: Sendable {
  let directory: TemporaryDirectory
  /// Not below /tmp, of which drills are to have a copy.
  let state: String
  let bank: Bank
  let system: ManagedSystem
  let journal: any RunJournal
  let runner: DrillRunner
  let time = CompressedTime()
  /// Of a repository that is reached over a network.
  private let server: ServerProcess?

  var root: String { directory.path }

  /// - Parameters:
  ///   - remote: The repository is reached over a network, through a server.
  ///   - check: A validator of the gateway's, as lines of YAML.
  init(engines: Bool, basePort: Int, drills: String, remote: Bool = false, check: String? = nil) async throws {
    directory = try TemporaryDirectory("drill")
    let root = directory.path
    state = "/var/tmp/salvor-drills-\(ProcessID.current)-\(basePort)"
    // The engines' users have to get in.
    chmod(root, 0o755)
    bank = Bank(
      program: try CommandRun.product("salvor-bank"), directory: root + "/bank", engines: engines, basePort: basePort)
    try Files.createDirectory(bank.directory)
    try await bank.create()
    try Files.createDirectory(root + "/catalog")
    var catalog = try await bank.catalog().replacing(
      "\n  password: \"file:", with: "\n  mirrors: [\"local:\(root)/mirror\"]\n  password: \"file:")
    var served: ServerProcess?
    if remote {
      let port = try freePort()
      served = try await BlockingPool.shared.run {
        try ServerProcess(
          port: port,
          [
            try CommandRun.product("salvor"), "vault", "serve", "--path", root + "/served", "--listen",
            "127.0.0.1:\(port)", "--no-auth",
          ])
      }
      let place = "rest:http://127.0.0.1:\(port)/bank/"
      catalog = catalog.replacing("location: \"local:\(root)/bank-vault\"", with: "location: \"\(place)\"")
        .replacing("local:\(root)/mirror", with: "rest:http://127.0.0.1:\(port)/mirror/")
      guard catalog.contains(place) else { throw SystemFailure("find", path: "location", number: 2) }
    }
    server = served
    if let check, let gateway = catalog.firstRange(of: "name: gateway\n"),
      let place = catalog[gateway.upperBound...].firstRange(of: "  validators:\n")
    {
      catalog.insert(contentsOf: check, at: place.upperBound)
    }
    try Files.replace(root + "/catalog/bank.yaml", with: Array(catalog.utf8), mode: 0o600)
    try Files.replace(
      root + "/catalog/drills.yaml", with: Array(drills.replacing("ROOT", with: root).utf8), mode: 0o600)
    let loaded = try await CatalogFiles.load(root + "/catalog", pool: .shared)
    var host = Machine(
      time: time, environment: ["PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"], name: "test",
      stateDirectory: state)
    host.randomness = SeededRandomness(seed: 7)
    system = try ManagedSystem(loaded, host: host)
    let declared = loaded.catalog.repositories[0]
    guard case .file(let password) = declared.password else { throw SystemFailure("find", path: "password", number: 2) }
    try Files.replace(password, with: Array("0123456789abcdef".utf8), mode: 0o600)
    _ = try await system.vaults.create(declared)
    _ = try await system.startAll()
    _ = try await bank.transfers(20, seed: 3, record: root + "/acknowledged.txt")
    journal = try await Registry.journal(host)
    runner = DrillRunner(system, journal: journal, program: try CommandRun.product("salvor"))
  }

  func point() async throws {
    let backup = Backup(system, journal: journal)
    for target in try backup.targets() { _ = try await backup.take(target) }
  }

  func drill(_ name: DrillName) -> Drill {
    guard let drill = system.catalog.drill(name) else { fatalError("no drill \(name)") }
    return drill
  }

  /// Follows a store's log over two points, so that there are stretches of it that lead on from a copy.
  func keepLog(of store: StoreName) async throws {
    let follow = Follow(system)
    let targets = try follow.targets([store])
    let logs = Logs(system)
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask {
        var options = LogKeeper.Options()
        options.within = .milliseconds(400)
        try await follow.run(targets, options: options) { _, _ in }
      }
      try await waitUntil("the log begins") { try await logs.standings([store]).first?.state != .nothing }
      try await point()
      for round in 0..<4 {
        let before = try await logs.standings([store]).first?.position
        _ = try await bank.transfers(5, seed: UInt64(20 + round), record: root + "/log.txt")
        try await waitUntil("the log grows") { try await logs.standings([store]).first?.position != before }
      }
      group.cancelAll()
      // What ends by being told to has nothing to say.
      while let _ = try? await group.next() {}
    }
  }

  /// Every file below, and what is in it.
  func fingerprint(_ directory: String) throws -> [String: Digest] {
    var result: [String: Digest] = [:]
    func look(_ directory: String) throws {
      for name in try Files.names(in: directory).map(\.lossyText) {
        let path = "\(directory)/\(name)"
        if Files.isDirectory(path) {
          try look(path)
        } else {
          result[path] = Digest.of(try Files.read(path))
        }
      }
    }
    try look(root + directory)
    return result
  }

  /// How many processes have this in their command line.
  func processes(with text: String) throws -> Int {
    try Files.names(in: "/proc").count { name in
      guard Int32(name.lossyText) != nil, let bytes = try? Files.read("/proc/\(name.lossyText)/cmdline") else {
        return false
      }
      return String(decoding: bytes, as: UTF8.self).contains(state + text)
    }
  }

  var history: DrillHistory { DrillHistory(journal, system) }

  func end() async throws {
    try? await system.stopAll()
    _ = try? await bank.killEverything(time: SystemTime())
    try Files.removeTree(state)
  }

  /// Runs `body` with a bank, and leaves nothing behind.
  static func with<T>(
    engines: Bool, basePort: Int, drills: String, remote: Bool = false, check: String? = nil,
    _ body: (DrillBank) async throws -> T
  ) async throws -> T {
    let bank = try await DrillBank(
      engines: engines, basePort: basePort, drills: drills, remote: remote, check: check)
    let result: Result<T, any Error>
    do { result = .success(try await body(bank)) } catch { result = .failure(error) }
    try await bank.end()
    return try result.get()
  }

  static func document(_ name: String, _ spec: String) -> String {
    "apiVersion: salvor.dev/v1\nkind: Drill\nmetadata: {name: \(name)}\nspec:\n\(spec)\n---\n"
  }
}
