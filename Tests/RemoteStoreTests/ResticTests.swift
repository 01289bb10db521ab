import Core
import Foundation
import IO
import RepositoryServer
import TestSupport
import Testing

#if canImport(Glibc)
  import Glibc
#endif

/// Stock restic and our own program, against servers of ours and of others.
@Suite("Remote repositories")
struct ResticTests {
  private let directory: TemporaryDirectory

  init() throws {
    directory = try TemporaryDirectory("remote")
    try Files.createDirectory(directory.file("source/deep/er"))
    let random = SeededRandomness(seed: 5)
    for (name, size) in [("small", 100), ("deep/large", 3 << 20), ("deep/er/empty", 0)] {
      try Files.replace(directory.file("source/\(name)"), with: random.bytes(size))
    }
  }

  private func environment(_ more: [String: String] = [:]) -> [String: String] {
    [
      "HOME": directory.path, "RESTIC_PASSWORD": "not-a-secret-in-a-test", "RESTIC_CACHE_DIR": directory.file("cache"),
    ].merging(more) { $1 }
  }

  @discardableResult
  private func restic(_ words: String..., on url: String, _ more: [String: String] = [:]) async throws -> CommandRun {
    try await CommandRun(
      ["restic"] + words, in: directory.path,
      environment: environment(["RESTIC_REPOSITORY": "rest:\(url)"].merging(more) { $1 }))
  }

  @discardableResult
  private func salvor(_ words: String..., on location: String, _ more: [String: String] = [:]) async throws
    -> CommandRun
  {
    try await CommandRun(
      [try CommandRun.product("salvor"), "vault"] + words, in: directory.path,
      environment: environment(["RESTIC_REPOSITORY": location].merging(more) { $1 }))
  }

  private func isRestored(_ target: String) async throws {
    try await CommandRun(["diff", "-r", directory.file("source"), target]).succeeded()
  }

  @Test(.timeLimit(.minutes(5)), arguments: [true, false])
  func `a mirror on a server is the same repository, and mends the local one`(_ isOurs: Bool) async throws {
    let body: @Sendable (Int) async throws -> Void = { [self] port in
      let local = directory.file("local-\(isOurs)")
      let url = "http://127.0.0.1:\(port)/mirror/"
      let mirrors = ["SALVOR_MIRRORS": "rest:\(url)"]
      try await salvor("init", on: local, mirrors).succeeded()
      for content in [[1], [2, 3]] as [[UInt8]] {
        try Files.replace(directory.file("source/small"), with: content)
        try await salvor("backup", "source", on: local, mirrors).succeeded()
      }
      let status = try await salvor("mirror", "status", "--json", on: local, mirrors).succeeded()
      #expect(status.output.contains("\"in_step\":true") && status.output.contains("\"only_there\":0"), "\(status)")
      try await salvor("forget", "--keep-last", "1", "--prune", "--max-unused", "0", on: local, mirrors).succeeded()
      let after = try await salvor("mirror", "status", "--json", on: local, mirrors).succeeded()
      #expect(after.output.contains("\"only_there\":0"), "what is removed is removed there too: \(after)")
      try await restic("check", "--read-data", on: url).succeeded()

      try await CommandRun(["bash", "-euc", "rm -f data/*/*"], in: local).succeeded()
      let out = directory.file("out-\(isOurs)")
      let restored = try await salvor("restore", "latest", "--target", out, on: local, mirrors)
      #expect(restored.status == 0 && restored.errors.contains("VAULT-193"), "\(restored)")
      try await isRestored("\(out)\(directory.file("source"))")
      try await salvor("repair", "packs", on: local, mirrors).succeeded()
      try await salvor("check", "--read-data", on: local, mirrors).succeeded()
    }
    if isOurs {
      try await withServer(ServerSettings(directory: directory.file("repositories")), body)
    } else {
      let place = directory.file("rclone")
      let server = try await BlockingPool.shared.run { try rcloneServer(place) }
      try await body(Int(server.port))
      withExtendedLifetime(server) {}
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `stock restic works on our server, and can't remove anything when it is append-only`() async throws {
    let users = directory.file("users")
    try await CommandRun(["htpasswd", "-cbB", "-C", "5", users, "alice", "swordfish"]).succeeded()
    var settings = ServerSettings(directory: directory.file("repositories"))
    (settings.usersFile, settings.hasPrivateRepositories, settings.isAppendOnly) = (users, true, true)
    try await withServer(settings) { [self] port in
      let url = "http://alice:swordfish@127.0.0.1:\(port)/alice/laptop/"
      try await restic("init", on: url).succeeded()
      try await restic("backup", "source", on: url).succeeded()
      try Files.replace(directory.file("source/small"), with: [1, 2, 3])
      try await restic("backup", "source", on: url).succeeded()
      let listed = try await restic("snapshots", "--json", on: url).succeeded()
      #expect(listed.output.components(separatedBy: "\"short_id\"").count == 3)
      try await restic("restore", "latest", "--target", directory.file("out"), on: url).succeeded()
      try await isRestored(directory.file("out/source"))
      try await restic("check", "--read-data", on: url).succeeded()
      let forgotten = try await restic("forget", "--keep-last", "1", "--prune", on: url)
      #expect(forgotten.status != 0 || forgotten.errors.contains("unable to remove"), "\(forgotten)")
      let kept = try await restic("snapshots", "--json", on: url).succeeded()
      #expect(kept.output.components(separatedBy: "\"short_id\"").count == 3, "both are there still")
      // Another user's repository, and no user at all.
      #expect(try await restic("snapshots", on: url.replacing("/alice/", with: "/bob/")).status != 0)
      #expect(try await restic("snapshots", on: url.replacing("alice:swordfish@", with: "")).status != 0)
    }
  }

  @Test(.timeLimit(.minutes(5)))
  func `our program works on our server and on rclone's, with stock restic as judge`() async throws {
    let directory = directory
    let port = try freePort()
    let serving = try CommandRun.product("salvor")
    let servers = try await BlockingPool.shared.run {
      [
        try ServerProcess(
          port: port,
          [
            serving, "vault", "serve", "--path", directory.file("ours"), "--listen", "127.0.0.1:\(port)", "--no-auth",
          ]),
        try rcloneServer(directory.file("theirs")),
      ]
    }
    for server in servers {
      let url = "http://127.0.0.1:\(server.port)/some/repository/"
      let location = "rest:\(url)"
      try await salvor("init", on: location).succeeded()
      try await salvor("backup", directory.file("source"), on: location).succeeded()
      try await restic("check", "--read-data", on: url).succeeded()
      try await restic("backup", "source", on: url).succeeded()
      let out = directory.file("out-\(server.port)")
      try await salvor("restore", "latest", "--target", out, "--verify", on: location).succeeded()
      let restored = Files.exists("\(out)/source") ? "\(out)/source" : out + directory.file("source")
      try await isRestored(restored)
      try await salvor("check", "--read-data", on: location).succeeded()
      try await salvor("snapshots", on: location, ["SALVOR_NO_CACHE": "1"]).succeeded()
    }
    #expect(Files.isDirectory(directory.file("cache/salvor")))
    let status = await BlockingPool.shared.run { servers[0].end() }
    #expect(status == 0, "a server that is asked to end has not failed: \(servers[0].output)")
  }

  @Test(.timeLimit(.minutes(5)))
  func `a bucket holds what stock restic reads`() async throws {
    let server = try await BlockingPool.shared.run { try motoServer() }
    let location = "s3:http://127.0.0.1:\(server.port)/bucket/prefix"
    let keys = ["AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK"]
    try await salvor("init", on: location, keys).succeeded()
    try await salvor("backup", directory.file("source"), on: location, keys).succeeded()
    try await CommandRun(
      ["restic", "check", "--read-data"], environment: environment(keys.merging(["RESTIC_REPOSITORY": location]) { $1 })
    ).succeeded()
    try await salvor("check", "--read-data", on: location, keys).succeeded()
  }

  @Test func `what is wrong with a location is said, without its secrets`() async throws {
    let program = try CommandRun.product("salvor")
    func run(_ location: String, _ more: [String: String] = [:]) async throws -> CommandRun {
      try await CommandRun(
        [program, "vault", "-r", location, "snapshots"],
        environment: environment(["SALVOR_NO_CACHE": "1"].merging(more) { $1 }))
    }
    let secret = try await run("rest:http://alice:swordfish@127.0.0.1:1/")
    #expect(secret.status != 0 && secret.errors.contains("USAGE-409") && !secret.errors.contains("swordfish"))
    let unknown = try await run("sftp:host:/path")
    #expect(unknown.errors.contains("USAGE-101") && unknown.errors.contains("rest"))
    let malformed = try await run("rest:host")
    #expect(malformed.errors.contains("STORE-109") && malformed.errors.contains("rest:https://"))
    let keyless = try await run("s3:http://127.0.0.1:1/bucket", ["AWS_EC2_METADATA_DISABLED": "true"])
    #expect(keyless.errors.contains("STORE-107") && keyless.errors.contains("AWS_ACCESS_KEY_ID"))
    let variable = try await run("rest:http://127.0.0.1:1/", ["SALVOR_CONNECTIONS": "many"])
    #expect(variable.errors.contains("USAGE-103"))
  }

  @Test func `serving wants users or their absence, and TLS where others listen`() async throws {
    let program = try CommandRun.product("salvor")
    func serve(_ words: String...) async throws -> CommandRun {
      try await CommandRun(
        [program, "vault", "serve", "--path", directory.file("x")] + words, environment: environment())
    }
    #expect(try await serve().errors.contains("--no-auth"))
    #expect(try await serve("--no-auth", "--listen", "0.0.0.0:1").errors.contains("--tls-cert"))
    #expect(try await serve("--no-auth", "--private-repos").errors.contains("needs users"))
    #expect(try await serve("--no-auth", "--listen", "nowhere").errors.contains("127.0.0.1:8000"))
    let missing = try await serve("--users", "/nonexistent/users")
    #expect(missing.errors.contains("SERVE-102"))
    #expect(!Files.exists("/nonexistent"))
  }
}
