import ArgumentParser
import Console
import Core
import Foundation
import IO
import Runtime
import Vault

/// Which repository, how it is opened, and how results are shown: restic's global options.
struct RepositoryOptions: ParsableArguments {
  @Option(
    name: [.customShort("r"), .customLong("repo")],
    help: ArgumentHelp("Where the repository is (default: $RESTIC_REPOSITORY).", valueName: "location"))
  var location: String?

  @Option(
    help: ArgumentHelp("File that says where the repository is (default: $RESTIC_REPOSITORY_FILE).", valueName: "file"),
    completion: .file())
  var repositoryFile: String?

  @Option(
    name: .shortAndLong,
    help: ArgumentHelp("File that holds the password (default: $RESTIC_PASSWORD_FILE).", valueName: "file"),
    completion: .file())
  var passwordFile: String?

  @Option(
    help: ArgumentHelp("Command that prints the password (default: $RESTIC_PASSWORD_COMMAND).", valueName: "command"))
  var passwordCommand: String?

  @Option(
    name: .customLong("mirror"),
    help: ArgumentHelp(
      "A copy of the repository to keep the same; may be repeated (default: $SALVOR_MIRRORS, separated by blanks).",
      valueName: "location"))
  var mirrors: [String] = []

  @Option(
    help: ArgumentHelp(
      "Where the password is, as a catalog says it: file:…, env:… or command:….", valueName: "reference"))
  var passwordFrom: String?

  @Option(
    help: ArgumentHelp("Private key that the password is sealed to, instead of the password.", valueName: "file"),
    completion: .file())
  var escrowKey: String?

  @Option(help: ArgumentHelp("Key to try first (default: $RESTIC_KEY_HINT).", valueName: "id"))
  var keyHint: String?

  @Option(
    help: ArgumentHelp(
      "How hard to compress: off, fast, auto, better or max (default: $RESTIC_COMPRESSION, or auto).",
      valueName: "level"))
  var compression: CompressionLevel?

  @Flag(help: "Take no lock; for reading a repository that can't be written to.")
  var noLock = false

  @Option(help: ArgumentHelp("How long to try while the repository is locked, such as 5m.", valueName: "duration"))
  var retryLock: String?

  @Option(
    help: ArgumentHelp("Certificates to trust, PEM (default: $RESTIC_CACERT, the system's).", valueName: "file"),
    completion: .file())
  var cacert: String?

  @Option(
    help: ArgumentHelp(
      "Certificate and key to show to a server, PEM (default: $RESTIC_TLS_CLIENT_CERT).", valueName: "file"),
    completion: .file())
  var tlsClientCert: String?

  @Option(help: ArgumentHelp("Send no faster than this.", valueName: "KiB/s"))
  var limitUpload: Int?

  @Option(help: ArgumentHelp("Receive no faster than this.", valueName: "KiB/s"))
  var limitDownload: Int?

  @Option(
    help: ArgumentHelp("Where indexes and directories are kept (default: $RESTIC_CACHE_DIR).", valueName: "directory"),
    completion: .directory)
  var cacheDir: String?

  @Flag(help: "Keep nothing of a remote repository on this machine.")
  var noCache = false

  @Option(
    help: ArgumentHelp(
      "One of restic's extended options, such as rclone.program=/opt/rclone; may be repeated.", valueName: "key=value"))
  var option: [String] = []

  @Flag(help: "The same as -o json, on as few lines as restic prints.")
  var json = false

  @OptionGroup var output: OutputOptions

  // MARK: What they come to

  /// The process's own, and what options say instead.
  private var environment: [String: String] {
    var result = ProcessInfo.processInfo.environment
    if let cacert { result["RESTIC_CACERT"] = absolute(cacert) }
    if let tlsClientCert { result["RESTIC_TLS_CLIENT_CERT"] = absolute(tlsClientCert) }
    if let limitUpload { result[RemoteSettings.uploadVariable] = "\(limitUpload)" }
    if let limitDownload { result[RemoteSettings.downloadVariable] = "\(limitDownload)" }
    if let cacheDir { result["RESTIC_CACHE_DIR"] = absolute(cacheDir) }
    for (name, value) in option.compactMap(Self.extended) { result[name] = value }
    if noCache { result[RemoteSettings.noCacheVariable] = "1" }
    return result
  }

  func validate() throws {
    for text in option where Self.extended(text) == nil {
      throw ValidationError(
        "--option takes key=value, with one of these keys: "
          + RemoteSettings.extendedOptions.keys.sorted().joined(separator: ", "))
    }
  }

  /// - Returns: The variable that says the same, and its value.
  private static func extended(_ text: String) -> (name: String, value: String)? {
    guard let equals = text.firstIndex(of: "="), let name = RemoteSettings.extendedOptions[String(text[..<equals])]
    else { return nil }
    let value = String(text[text.index(after: equals)...])
    // What Salvor calls the host, restic calls DNS.
    return (name, text.hasPrefix("s3.bucket-lookup=dns") ? "host" : value)
  }

  /// The machine as restic sees it: locks and snapshots carry the name gethostname(2) gives.
  var host: Machine {
    Machine(
      environment: environment, name: Owner.current.hostname,
      stateDirectory: Machine.defaultStateDirectory(environment), log: { standardError($0 + "\n") })
  }

  /// How repositories are worked with here.
  ///
  /// - Throws: If the environment names a level that there isn't.
  func vaultSettings() throws -> VaultSettings {
    var settings = host.vaultSettings
    if let compression {
      settings.compression = compression
    } else if let name = environment["RESTIC_COMPRESSION"], !name.isEmpty {
      guard let level = CompressionLevel(argument: name) else {
        throw ValidationError("RESTIC_COMPRESSION: '\(name)' is not off, fast, auto, better or max")
      }
      settings.compression = level
    }
    return settings
  }

  var progress: ProgressLine {
    ProgressLine(style: Style.detect(2, environment: environment), time: host.time, isQuiet: output.quiet)
  }

  var isMachineReadable: Bool { json || output.output != .table }

  /// The first of an option and a variable that says something.
  private func value(_ option: String?, _ variable: String) -> String? {
    [option, environment[variable]].compactMap(\.self).first { !$0.isEmpty }
  }

  /// The repository's mirrors.
  func mirrorStores() throws -> [any ObjectStore] {
    let named = environment["SALVOR_MIRRORS"].map { $0.split(whereSeparator: \.isWhitespace).map(String.init) } ?? []
    // What a variable says, others can't read: it may hold a password.
    return try mirrors.isEmpty ? named.map { try anyStore(at: $0) } : mirrors.map { try store(at: $0) }
  }

  private func anyStore(at named: String) throws -> any ObjectStore {
    let hasScheme = named.prefix { $0 != "/" }.contains(":")
    return try Registry.store(at: hasScheme ? named : absolute(named), host: host)
  }

  func store() async throws -> any ObjectStore { try Registry.store(at: try await place(), host: host) }

  /// Where the repository's parity is, or would be.
  func parityPlace() async throws -> any ObjectStore {
    try Registry.parityPlace(of: try await place(), host: host)
  }

  /// Where the repository is, as options and variables say; with a scheme, or absolute.
  func place() async throws -> String {
    let host = host
    var named = value(location, "RESTIC_REPOSITORY")
    if let file = value(repositoryFile, "RESTIC_REPOSITORY_FILE") {
      guard location == nil || repositoryFile == nil else {
        throw RepositoryOptionsFailure.contradiction("--repo", "--repository-file")
      }
      if location == nil, repositoryFile != nil || named == nil {
        named = try await host.pool.run { () throws(SystemFailure) in
          String(decoding: try Files.read(file, limitBytes: 65_536), as: UTF8.self)
        }.trimmingCharacters(in: .whitespacesAndNewlines)
      }
    }
    guard let named, !named.isEmpty else { throw RepositoryOptionsFailure.noRepository }
    // Every user of the machine can read the arguments of every process.
    if let location, Self.holdsPassword(location) { throw RepositoryOptionsFailure.passwordInArgument }
    let hasScheme = named.prefix { $0 != "/" }.contains(":")
    return hasScheme ? named : absolute(named)
  }

  /// Whether an address has a password between `//` and `@`.
  private static func holdsPassword(_ location: String) -> Bool {
    guard let start = location.range(of: "://")?.upperBound else { return false }
    let authority = location[start...].prefix { $0 != "/" }
    return authority.lastIndex(of: "@").map { authority[..<$0].contains(":") } ?? false
  }

  /// - Parameter confirming: Asks a second time on a terminal: for a password that is to be set.
  func password(confirming: Bool = false) async throws -> Secret {
    if let passwordFrom {
      if passwordFile != nil || passwordCommand != nil {
        throw RepositoryOptionsFailure.contradiction(
          "--password-from", passwordFile != nil ? "--password-file" : "--password-command")
      }
      return try await PasswordSource.reference(passwordFrom, host)
    }
    let command = value(passwordCommand, "RESTIC_PASSWORD_COMMAND")
    let file = value(passwordFile, "RESTIC_PASSWORD_FILE")
    if command != nil, file != nil {
      throw RepositoryOptionsFailure.contradiction("--password-file", "--password-command")
    }
    if let command { return try await PasswordSource.command(command, host) }
    if let file { return try await PasswordSource.file(file, host) }
    if let text = environment["RESTIC_PASSWORD"], !text.isEmpty { return Secret(text) }
    return try await PasswordSource.prompt("password for the repository", confirming: confirming, host)
  }

  /// Where the repository is, and what opens it.
  struct Access: Sendable {
    var store: any ObjectStore
    var password: Secret
    var keyHint: Digest?
  }

  func access(toleratesNoConfig: Bool = false) async throws -> Access {
    let store = try await store()
    // Said before a password is asked for.
    if !toleratesNoConfig, try await !store.contains(.config) { throw VaultError.notARepository(store.location) }
    if let escrowKey {
      if passwordFile != nil || passwordCommand != nil || passwordFrom != nil {
        throw RepositoryOptionsFailure.contradiction("--escrow-key", "a password")
      }
      let path = absolute(escrowKey)
      let key = try await host.pool.run { try EscrowKeyFile.read(path) }
      let (password, keyID) = try await Repository.openEscrow(in: store, with: key, settings: try vaultSettings())
      return Access(store: store, password: password, keyHint: keyID)
    }
    let hint = value(keyHint, "RESTIC_KEY_HINT").flatMap { Digest(hex: $0) }
    return Access(store: store, password: try await password(), keyHint: hint)
  }

  /// - Parameters:
  ///   - sources: Other ways to what is damaged or missing, before the mirrors.
  ///   - isAlone: Leaves mirrors and parity aside: for what looks at the repository itself.
  ///   - isDryRun: What is read from elsewhere is not put back.
  func open(
    access: Access? = nil, loadingIndex: Bool = false, sources: [any RecoverySource] = [], isAlone: Bool = false,
    isDryRun: Bool = false
  ) async throws -> Repository {
    let mirrors = try isAlone ? [] : mirrorStores()
    let parity = try await isAlone ? nil : ParityStore.open(try await parityPlace(), pool: host.pool)
    // Nearest first.
    let sources = [parity].compactMap(\.self) + sources + mirrors.map { CopySource($0) }
    let access = if let access { access } else { try await self.access(toleratesNoConfig: !sources.isEmpty) }
    var settings = try vaultSettings()
    (settings.sources, settings.mendsInPlace) = (sources, !isDryRun)
    return try await Repository.open(
      store: Registry.mirrored(Registry.protected(access.store, by: parity), mirrors), password: access.password,
      keyHint: access.keyHint,
      settings: settings, loadingIndex: loadingIndex)
  }

  /// A store that another option names; a bare path is local.
  func store(at named: String) throws -> any ObjectStore {
    // Every user of the machine can read the arguments of every process.
    if Self.holdsPassword(named) { throw RepositoryOptionsFailure.passwordInArgument }
    return try anyStore(at: named)
  }

  /// Opens the repository and runs `body` under a lock, with the index as it is then.
  ///
  /// - Parameters:
  ///   - exclusive: As restic: for what removes anything, and for checks.
  ///   - needsLock: Whether `--no-lock` is refused, because `body` writes.
  ///   - access: Asked for unless given.
  ///   - startsEarly: `body` writes to the repository by way of blobs and snapshots only, and removes nothing.
  func locked<T: Sendable>(
    exclusive: Bool = false, needsLock: Bool = false, loadingIndex: Bool = true, access: Access? = nil,
    sources: [any RecoverySource] = [], isAlone: Bool = false, isDryRun: Bool = false, catchesUp: Bool = false,
    startsEarly: Bool = false, _ body: @escaping @Sendable (Repository) async throws -> T
  ) async throws -> T {
    if noLock, needsLock { throw RepositoryOptionsFailure.lockNeeded }
    var wait = Duration.zero
    if let retryLock {
      guard let duration = Duration(text: retryLock), duration >= .zero else {
        throw ValidationError("'\(retryLock)' is not a duration, such as 5m")
      }
      wait = duration
    }
    let repository = try await open(access: access, sources: sources, isAlone: isAlone, isDryRun: isDryRun)
    defer { warnOfMended(repository) }
    if noLock {
      if loadingIndex { try await repository.refreshIndex() }
      return try await body(repository)
    }
    let line = progress
    return try await repository.withLock(
      exclusive: exclusive, wait: wait, loadingIndex: loadingIndex, startsEarly: startsEarly
    ) {
      let result = try await body(repository)
      await settleParity(of: repository)
      await settleMirrors(of: repository, catchesUp: catchesUp, line)
      return result
    }
  }

  /// Writes down what parity there is, and tells if some could not be written.
  private func settleParity(of repository: Repository) async {
    guard let parity = Registry.parity(in: repository.store) else { return }
    await parity.finish()
    guard let problem = parity.problem else { return }
    let report = Report("PARITY-101", "parity could not be written: \(problem.harmless)")
      .state("what it is for is stored").remedy("run `salvor vault parity add`")
    standardError("warning: \(report)\n")
  }

  /// Tells which mirrors are behind, and lets those catch up that can: what the command was for is done.
  private func settleMirrors(of repository: Repository, catchesUp: Bool, _ line: ProgressLine) async {
    for (mirror, problem) in Registry.standings(repository.store) {
      guard let problem else { continue }
      var reason = problem.reason
      // A place that is no copy yet may be a disk that isn't mounted: the first time is asked for by name.
      if catchesUp, problem.isBehind, (try? await mirror.contains(.config)) == true {
        do {
          let report = try await repository.synchronize(mirror) {
            line.show("mirror", "\($0) of \($1) files, \(formatBytes(Int64($2)))")
          }
          if report.isComplete { continue }
          reason = "\(report.damaged.count.of("file")) of the repository can't be copied"
        } catch { reason = AnyFailure(error).report.summary }
      }
      line.clear()
      warnOfMirror(mirror, reason)
    }
  }

  func warnOfMirror(_ mirror: any ObjectStore, _ reason: String) {
    let report = Report("VAULT-194", "the mirror \(mirror.location.harmless) is behind: \(reason.harmless)")
      .remedy("run `salvor vault mirror sync`")
    standardError("warning: \(report)\n")
  }

  private func warnOfMended(_ repository: Repository) {
    for object in repository.mended {
      let end = object.failure.map { "it could not be put back: \($0)" } ?? "it was brought back"
      let report = Report(
        "VAULT-193",
        "\(object.name) was damaged or missing; it was read from \(object.source.harmless), and \(end.harmless)")
      standardError("warning: \(report)\n")
    }
  }

  // MARK: Results

  /// Prints `value`, or what `table` makes of it.
  func show(_ value: some Encodable, table: (Style) -> [String]) throws {
    if json { return standardOutput(try CanonicalJSON.text(value) + "\n") }
    try output.show(value, table: table)
  }
}

extension CompressionLevel: ExpressibleByArgument {
  /// restic's name for its fastest is understood too.
  public init?(argument: String) { self.init(rawValue: argument == "fastest" ? "fast" : argument) }
}

/// What the command line or the environment leaves open.
enum RepositoryOptionsFailure: Failure {
  case noRepository
  case contradiction(String, String)
  case lockNeeded
  case noPassword
  case emptyPassword(String)
  case passwordsDiffer
  case noSource
  case sameRepository
  case passwordInArgument
  case noReference

  var report: Report {
    switch self {
    case .noRepository:
      Report("USAGE-401", "no repository is named").remedy("give its location with --repo, or set RESTIC_REPOSITORY")
    case .contradiction(let a, let b):
      Report("USAGE-402", "\(a) and \(b) can't both be given").remedy("leave one out; a variable counts as well")
    case .lockNeeded:
      Report("USAGE-403", "what writes to a repository needs a lock").state("nothing was changed")
        .remedy("leave out --no-lock")
    case .noPassword:
      Report("USAGE-404", "no password is given, and there is no terminal to ask on").state("nothing was changed")
        .remedy("use --password-file or --password-command, or set RESTIC_PASSWORD_FILE")
    case .emptyPassword(let place):
      Report("USAGE-405", "the password from \(place) is empty").state("nothing was changed")
        .remedy("put a password there; an empty one protects nothing")
    case .passwordsDiffer:
      Report("USAGE-406", "the two passwords differ").state("nothing was changed").remedy("type the same one twice")
    case .noSource:
      Report("USAGE-407", "no repository to copy from is named")
        .remedy("give its location with --from-repo, or set RESTIC_FROM_REPOSITORY")
    case .sameRepository:
      Report("USAGE-408", "both are the same repository").state("nothing was changed")
        .remedy("--repo is the one to copy to, --from-repo the one to copy from")
    case .noReference:
      // The text is not repeated: someone may have typed the password itself.
      Report("USAGE-411", "that is no reference to a secret").state("nothing was read")
        .remedy("write file:/path, env:NAME or command:program and its arguments, as in a catalog")
    case .passwordInArgument:
      Report(
        "USAGE-409", "the location on the command line holds a password, which every user of this machine can read"
      )
      .state("nothing was sent")
      .remedy("set RESTIC_REST_USERNAME and RESTIC_REST_PASSWORD, or put the location into --repository-file")
    }
  }
}
