import Core
import IO
import ObjectStoreLocal
import TestSupport
import Testing
import Vault

/// A repository, what to put into it, and the two programs that work on it.
struct VaultFixture: Sendable {
  static let password = "correct horse"

  let directory: TemporaryDirectory
  var repository: String
  var source: String { directory.file("source") }
  var passwordFile: String { directory.file("password") }

  init() async throws {
    directory = try TemporaryDirectory("vault-cli")
    repository = directory.file("repository")
    try Files.replace(passwordFile, with: Array((Self.password + "\n").utf8))
    try Files.createDirectory("\(source)/sub/deep")
    try Files.createDirectory("\(source)/empty")
    try write("plain", Array("hello\n".utf8))
    try write("nothing", [])
    try write("sub/trace.log", Array("trace\n".utf8))
    try write("sub/deep/large", SeededRandomness(seed: 7).bytes(3 << 20))
    try await shell("ln -s plain link; mkfifo pipe; ln plain second; chmod 4750 sub/trace.log; chown 4:7 plain")
  }

  func write(_ name: String, _ bytes: [UInt8]) throws {
    try Files.replace("\(source)/\(name)", with: bytes, mode: 0o644)
  }

  @discardableResult
  func shell(_ script: String) async throws -> String {
    try await CommandRun(["bash", "-euc", script], in: source).succeeded().output
  }

  private var environment: [String: String] {
    ["RESTIC_REPOSITORY": repository, "RESTIC_PASSWORD_FILE": passwordFile, "SALVOR_STATE": directory.file("state")]
  }

  /// `salvor vault …`, whatever its end.
  func salvor(_ words: String..., environment more: [String: String] = [:]) async throws -> CommandRun {
    try await salvor(words, environment: more)
  }

  func salvor(_ words: [String], environment more: [String: String] = [:]) async throws -> CommandRun {
    try await CommandRun(
      [CommandRun.product("salvor"), "vault"] + words, in: directory.path,
      environment: environment.merging(more) { $1 })
  }

  @discardableResult
  func restic(_ words: String...) async throws -> CommandRun { try await restic(words) }

  @discardableResult
  func restic(_ words: [String]) async throws -> CommandRun {
    try await CommandRun(["restic", "--no-cache"] + words, in: directory.path, environment: environment).succeeded()
  }

  /// With a repository whose keys cost little to open: half a second less for every command.
  static func withRepository() async throws -> VaultFixture {
    let fixture = try await VaultFixture()
    try await fixture.create()
    return fixture
  }

  func create() async throws {
    var settings = VaultSettings()
    settings.scrypt = ScryptParameters(n: 1024, r: 8, p: 1)
    _ = try await Repository.create(
      store: try LocalObjectStoreFactory().open(repository), password: Secret(Self.password), settings: settings)
  }

  /// The repository in this process.
  func open() async throws -> Repository {
    try await Repository.open(
      store: try LocalObjectStoreFactory().open(repository), password: Secret(Self.password))
  }

  /// Every entry below `path`, with all that a restore must bring back: kind, mode, owner, size, time, link, content.
  static func picture(_ path: String) async throws -> String {
    let script = """
      find . -mindepth 1 -printf '%P %y %m %U %G %T@ %l\\n' | sort
      find . -type f -print0 | sort -z | xargs -0r sha256sum
      """
    return try await CommandRun(["bash", "-euc", script], in: path).succeeded().output
  }

  /// The repository's files by content; what a failed command must leave as it was.
  func repositoryPicture() async throws -> String {
    let script = "find . -type f -print0 | sort -z | xargs -0r sha256sum"
    return try await CommandRun(["bash", "-euc", script], in: repository).succeeded().output
  }
}

/// A small file system of a test's own, in memory; unmounted by ``unmount()``. Needs root.
struct SmallDisk {
  let path: String

  init(_ path: String, megabytes: Int) async throws {
    self.path = path
    try Files.createDirectory(path)
    try await CommandRun(["mount", "-t", "tmpfs", "-o", "size=\(megabytes)m", "tmpfs", path]).succeeded()
  }

  func makeReadOnly() async throws { try await CommandRun(["mount", "-o", "remount,ro", path]).succeeded() }

  func unmount() async throws { try await CommandRun(["umount", path]).succeeded() }

  /// Runs `body`, and unmounts whatever happened.
  func using<T>(_ body: () async throws -> T) async throws -> T {
    do {
      let value = try await body()
      try await unmount()
      return value
    } catch {
      try? await unmount()
      throw error
    }
  }
}

/// Whether a failure is told as it must be: status, code and remedy on standard error, nothing on standard output.
func expectFailure(
  _ run: CommandRun, _ status: Int32, _ codes: String..., says: String = "", location: SourceLocation = #_sourceLocation
) {
  #expect(run.status == status, "\(run.words.last ?? ""): \(run.errors)", sourceLocation: location)
  #expect(
    codes.contains { run.errors.contains("error \($0): ") }, "\(codes) in: \(run.errors)", sourceLocation: location)
  #expect(run.errors.contains("\n  next:  "), "a remedy in: \(run.errors)", sourceLocation: location)
  if !says.isEmpty { #expect(run.errors.contains(says), "\(run.errors)", sourceLocation: location) }
}
