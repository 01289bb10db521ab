import Core
import IO
import ObjectStoreContract
import ObjectStoreRetry
import TestSupport
import Testing
import Vault

@testable import ObjectStoreREST

#if canImport(Glibc)
  import Glibc
#endif

/// rclone as a child, of two versions: the one Debian has, and a newer one.
@Suite("rclone store")
struct RcloneTests {
  private let directory: TemporaryDirectory

  init() throws { directory = try TemporaryDirectory("rclone") }

  private static let programs = ["/usr/bin/rclone", tool("rclone")]

  private func environment(_ more: [String: String] = [:]) -> [String: String] {
    ["PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": directory.path, "RCLONE_CONFIG": "/dev/null"].merging(more) { $1 }
  }

  private func open(
    _ location: String? = nil, _ more: [String: String] = [:], log: @escaping @Sendable (String) -> Void = { _ in }
  ) throws -> any ObjectStore {
    try RcloneObjectStoreFactory(environment: environment(more), time: SystemTime(), pool: .shared, log: log)
      .open(location ?? directory.file("repository"))
  }

  /// A program that writes down who it is and what it was told, and becomes rclone.
  private func witness() throws -> String {
    let path = directory.file("witness")
    try Files.replace(
      path,
      with: Array(
        """
        #!/bin/sh
        env >'\(directory.file("variables"))'
        echo "$@" >'\(directory.file("words"))'
        echo $$ >'\(directory.file("pid.new"))' && mv '\(directory.file("pid.new"))' '\(directory.file("pid"))'
        exec '\(tool("rclone"))' "$@"
        """.utf8), mode: 0o755)
    return path
  }

  private func pid() throws -> pid_t {
    let text = String(decoding: try Files.read(directory.file("pid")), as: UTF8.self)
    return try #require(pid_t(text.dropLast()))
  }

  /// Whether a process ends within ten seconds; one that nobody waits for has ended, too.
  private func ends(_ pid: pid_t) async throws -> Bool {
    for _ in 0..<200 {
      let status = (try? Files.read("/proc/\(pid)/stat")).map { String(decoding: $0, as: UTF8.self) }
      guard let state = status?.split(separator: ")").last?.split(separator: " ").first, state != "Z" else {
        return true
      }
      try await SystemTime().sleep(for: .milliseconds(50))
    }
    return false
  }

  @Test(arguments: programs)
  func `it keeps the contract`(_ program: String) async throws {
    for promise in ObjectStorePromise.ofRclone {
      let store = try open(directory.file("of-\(promise)"), [RcloneObjectStoreFactory.programVariable: program])
      try await promise.check(RetryObjectStore(store, time: SystemTime(), randomness: SeededRandomness(seed: 1)))
    }
  }

  @Test func `it ends when the store is let go, and a store whose rclone was killed starts another`() async throws {
    var store: (any ObjectStore)? = try open(nil, [RcloneObjectStoreFactory.programVariable: try witness()])
    try await store?.prepare()
    let first = try pid()
    #expect(kill(first, SIGKILL) == 0)
    #expect(try await ends(first))
    let name = ObjectName(.data, Digest.of("x"))
    try await RetryObjectStore(try #require(store), time: SystemTime(), randomness: SeededRandomness(seed: 1))
      .put(name, Array("x".utf8))
    let second = try pid()
    #expect(second != first && kill(second, 0) == 0)
    store = nil
    #expect(try await ends(second))
  }

  @Test func `it ends when Salvor is killed, and hears nothing of its secrets`() async throws {
    let salvor = try CommandRun.product("salvor")
    try Files.replace(directory.file("large"), with: SeededRandomness(seed: 3).bytes(4 << 20))
    let variables = environment([
      "RESTIC_REPOSITORY": "rclone:\(directory.file("repository"))", "RESTIC_PASSWORD": "swordfish",
      "SALVOR_NO_CACHE": "1",
    ])
    try await CommandRun([salvor, "vault", "init"], environment: variables).succeeded()
    let run = try await CommandRun(
      [
        "timeout", "-s", "KILL", "4", salvor, "vault", "--option", "rclone.program=\(try witness())",
        "--limit-upload", "1", "backup", directory.file("large"),
      ], environment: variables)
    #expect(run.status == 137 && !run.output.contains("saved"), "it was killed at work: \(run.errors)")
    #expect(try await ends(try pid()))
    let told = try ["variables", "words"].map { String(decoding: try Files.read(directory.file($0)), as: UTF8.self) }
    #expect(told[0].contains("RCLONE_CONFIG=/dev/null") && !told.joined().contains("swordfish"))
    #expect(told[1].hasPrefix("serve restic --stdio"))
  }

  @Test(.timeLimit(.minutes(5)))
  func `the whole command line works through it, and restic reads the result`() async throws {
    let salvor = try CommandRun.product("salvor")
    try Files.createDirectory(directory.file("source"))
    try Files.replace(directory.file("source/file"), with: SeededRandomness(seed: 4).bytes(3 << 20))
    let variables = environment([
      "RESTIC_REPOSITORY": "rclone:\(directory.file("repository"))", "RESTIC_PASSWORD": "swordfish",
      "RESTIC_CACHE_DIR": directory.file("cache"),
    ])
    for words in [
      ["init"], ["backup", directory.file("source")], ["snapshots"], ["check", "--read-data"],
      ["restore", "latest", "--target", directory.file("out"), "--verify"], ["forget", "--keep-last", "1", "--prune"],
    ] {
      try await CommandRun([salvor, "vault"] + words, environment: variables).succeeded()
    }
    // restic through an rclone of its own.
    try await CommandRun(["restic", "check", "--read-data"], environment: variables).succeeded()
    try await CommandRun(["restic", "backup", directory.file("source")], environment: variables).succeeded()
    try await CommandRun([salvor, "vault", "check", "--read-data"], environment: variables).succeeded()
  }

  @Test func `what can't work is said at once, and not tried again`() async throws {
    func failure(_ location: String, _ more: [String: String] = [:]) async throws -> StoreError? {
      do throws(StoreError) {
        let store: any ObjectStore
        do { store = try open(location, more) } catch let error as StoreError { throw error } catch { return nil }
        _ = try await store.size(of: .config)
      } catch { return error }
      return nil
    }
    guard case .location(let unknown)? = try await failure("nosuch:/x"), unknown.contains("nosuch"),
      case .location? = try await failure("/x", [RcloneObjectStoreFactory.programVariable: "/nonexistent/rclone"]),
      case .location(let quotes)? = try await failure("/x", [RcloneObjectStoreFactory.programVariable: "'rclone"]),
      quotes.contains("quotes"), case .location? = try await failure("--config=/x"),
      case .location(let secret)? = try await failure(":sftp,pass=swordfish:/x"), !secret.contains("swordfish")
    else {
      Issue.record("another kind of error")
      return
    }
  }

  @Test func `one that says nothing is given up`() async throws {
    let mute = directory.file("mute")
    try Files.replace(mute, with: Array("#!/bin/sh\nexec sleep 30\n".utf8), mode: 0o755)
    let store = try open(
      "/x", [RcloneObjectStoreFactory.programVariable: mute, RcloneObjectStoreFactory.timeoutVariable: "300ms"])
    await #expect(throws: StoreError.self) { _ = try await store.size(of: .config) }
  }
}
