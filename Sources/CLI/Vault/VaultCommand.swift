import ArgumentParser

struct VaultCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "vault", abstract: "Work on a repository directly, in restic's own terms.", subcommands: [])
}
