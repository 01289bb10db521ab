import ArgumentParser

/// Works on one repository without a catalog, in restic's own nouns and options.
struct VaultCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "vault", abstract: "Work on a repository directly, in restic's own terms.",
    discussion: """
      The repository is restic's, version 1 or 2: whatever is written here stock restic reads, and the other way round. \
      Where and how to open it is read from restic's own variables: RESTIC_REPOSITORY, RESTIC_REPOSITORY_FILE, \
      RESTIC_PASSWORD, RESTIC_PASSWORD_FILE, RESTIC_PASSWORD_COMMAND. A password is never an argument.

      EXAMPLES
        export RESTIC_REPOSITORY=/srv/backup RESTIC_PASSWORD_FILE=/run/secrets/backup
        salvor vault init
        salvor vault backup /etc /home --exclude '*.tmp' --tag nightly
        salvor vault snapshots --tag nightly
        salvor vault restore latest --target /tmp/out --verify
        salvor vault check --read-data
      """,
    subcommands: [
      Initialise.self, Backup.self, Snapshots.self, List.self, Restore.self, Check.self, Unlock.self, Objects.self,
      Cat.self, Key.self, Stats.self, Forget.self, Prune.self, Tag.self,
      Lock.self, Conform.self, Copy.self, Repair.self, Diff.self, Find.self, Dump.self, Serve.self,
      Mirror.self, Parity.self, Rewrite.self, Migrate.self, Escrow.self, Mount.self,
    ])

  /// Before the subcommand, too, as restic takes them.
  @OptionGroup var options: RepositoryOptions
}
