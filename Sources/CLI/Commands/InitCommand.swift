import ArgumentParser
import Catalog
import Console
import Core
import Foundation
import IO
import Runtime

struct InitCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "init", abstract: "Write a first catalog; or get back the one a repository keeps.",
    discussion: """
      Writes a catalog with one SQLite store, a password file (random, readable by you alone), and the repository they name.

      With --from, on a machine that has lost everything else: reads the catalog that the newest point was taken under, and \
      writes it as a folder. Then `salvor restore` brings everything back.

      EXAMPLES
        salvor init && $EDITOR salvor.yaml && salvor validate && salvor backup
        salvor init --from local:/mnt/backup --password-file /root/password && salvor restore
      """)

  @Option(help: "Where the catalog is written.") var file = "salvor.yaml"
  @Option(help: "Where the repository is made.") var repository = "salvor-repository"
  @Option(help: "Where the repository's password is kept.", completion: .file()) var passwordFile = "salvor-password"
  @Option(help: "A SQLite database to begin with.") var sqlite = "app.db"
  @Option(help: "Get the catalog back from this repository, such as local:/mnt/backup.") var from: String?
  @Option(help: "With --from: the folder it is written to.") var folder = "salvor"

  func run() async throws {
    let host = SystemOptions.parseOrExit([]).host
    if let from { return try await fetch(from, host) }
    for path in [file, passwordFile] where Files.exists(path) {
      throw KeptCatalogError.exists(path, "--file or --password-file")
    }
    let text = FirstCatalog.text(
      repository: absolute(repository), passwordFile: absolute(passwordFile), sqlite: absolute(sqlite))
    try Files.replace(passwordFile, with: Array((Hex.encode(host.randomness.bytes(32)) + "\n").utf8), mode: 0o600)
    try Files.replace(file, with: Array(text.utf8), mode: 0o644)
    let loaded = try await CatalogFiles.load(file, pool: host.pool)
    let vaults = Vaults(host: host)
    for declared in loaded.catalog.repositories { _ = try await vaults.create(declared) }
    standardError(
      """
      wrote \(file), \(passwordFile) and an empty repository in \(repository)
      next: edit \(file), then `salvor validate` and `salvor backup`
      keep a copy of \(passwordFile) elsewhere: without it the backups can't be read

      """)
  }

  private func fetch(_ from: String, _ host: Machine) async throws {
    let isRemote = DeclaredRepository.Location.remoteSchemes.contains { from.hasPrefix("\($0):") }
    let path = from.hasPrefix("local:") ? String(from.dropFirst(6)) : from
    guard let location = DeclaredRepository.Location(isRemote ? from : "local:" + absolute(path)) else {
      throw ValidationError(
        "'\(isRemote ? "this" : from)' is not a place for a repository; write it as local:/mnt/backup")
    }
    let kept = try await KeptCatalog.newest(in: location, password: .file(absolute(passwordFile)), host: host)
    try await kept.write(to: folder, host: host)
    var lines = ["wrote \(folder): the catalog of point \(kept.point.id)"]
    lines += kept.remarks
    if Files.exists("salvor.yaml") {
      lines.append("there is a salvor.yaml too, and it comes first: name the folder with --catalog \(folder)")
    }
    lines.append(
      "next: look at it, then `salvor plan restore` and `salvor restore`"
        + (folder == "salvor" ? "" : ", with --catalog \(folder)"))
    standardError(lines.map { $0.harmless + "\n" }.joined())
  }
}
