import ArgumentParser
import Console
import Core
import Runtime
import Vault

extension VaultCommand {
  struct Initialise: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "init", abstract: "Create a repository.",
      discussion: """
        Exit status 6 if there is one already.

        EXAMPLES
          salvor vault init --repo /srv/backup --password-file /run/secrets/backup
          salvor vault init -r /srv/backup --repository-version 1     for restic before 0.14
        """)

    @Option(help: "1, 2, stable or latest.") var repositoryVersion = "stable"
    @OptionGroup var options: RepositoryOptions

    func run() async throws {
      let versions = ["1": 1, "2": 2, "stable": 2, "latest": 2]
      guard let version = versions[repositoryVersion] else {
        throw ValidationError("'\(repositoryVersion)' is not a version of the format; 1 and 2 are")
      }
      let store = Registry.mirrored(try await options.store(), try options.mirrorStores())
      let exists = (try? await store.contains(.config)) ?? false
      if exists { throw VaultError.repositoryExists(store.location) }
      let repository = try await Repository.create(
        store: store, password: try await options.password(confirming: true), version: version,
        settings: try options.vaultSettings())
      for (mirror, problem) in Registry.standings(store) {
        guard let problem else { continue }
        options.warnOfMirror(mirror, problem.reason)
      }
      let result: JSONValue = [
        "message_type": "initialized", "id": .string(repository.config.id.hex), "repository": .string(store.location),
      ]
      try options.show(result) { _ in
        ["created restic repository \(repository.config.id.hex.prefix(10)) at \(store.location.harmless)"]
      }
      if !options.output.quiet {
        standardError("Keep the password safe: without it the repository can't be read by anyone.\n")
      }
    }
  }
}
