import Core
import Foundation
import IO
import TestSupport
import Testing

@Suite("salvor vault mount") struct MountTests {
  /// Runs a script in the fixture's directory with a repository mounted at `mnt`, and ends the mount by its pid.
  private func mounted(
    _ fixture: VaultFixture, _ options: String = "", _ script: String
  ) async throws -> CommandRun {
    let head = """
      mkdir -p mnt
      \(try CommandRun.product("salvor")) vault mount \(options) mnt 2> mount.log & pid=$!
      trap 'kill $pid 2>/dev/null && wait $pid || true' EXIT
      for i in $(seq 400); do mountpoint -q mnt && break; kill -0 $pid; sleep 0.05; done
      mountpoint -q mnt || { cat mount.log >&2; exit 9; }

      """
    return try await CommandRun(
      ["bash", "-euo", "pipefail", "-c", head + script], in: fixture.directory.path,
      environment: [
        "RESTIC_REPOSITORY": fixture.repository, "RESTIC_PASSWORD_FILE": fixture.passwordFile,
        "SALVOR_STATE": fixture.directory.file("state"), "SOURCE": fixture.source,
        "SALVOR": try CommandRun.product("salvor"), "LC_ALL": "C",
      ])
  }

  @Test(.timeLimit(.minutes(10)))
  func `what is mounted is what a restore brings back, byte for byte`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try await fixture.shell(
      """
      printf x > $'odd\\nname\\xff'; mkdir many; (cd many; seq 3000 | xargs touch)
      setfattr -n user.comment -v kept plain; mknod dev c 1 3; mknod block b 259 300
      touch -d '1969-12-31 23:59:58.25 UTC' old; touch -d '2040-05-06 07:08:09.123456789 UTC' new
      head -c 5000000 /dev/urandom > noise; yes text | head -c 9000000 > text
      chown 3000:3001 new; chmod 2755 sub; chmod 1777 empty
      python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
      """)
    try await fixture.salvor("backup", "source", "--tag", "a/b,c").succeeded()
    try await fixture.restic("restore", "latest", "--target", fixture.directory.file("out"))
    let run = try await mounted(
      fixture, "",
      """
      top="mnt/snapshots/latest$SOURCE"
      # Sockets are not restored; a directory's size and links are its file system's.
      picture() { cd "$1" && { find . -mindepth 1 ! -type d ! -type s -printf '%P %y %m %U %G %T@ %s %n %l\\n'
        find . -mindepth 1 -type d -printf '%P %m %U %G %T@\\n'; } | sort; }
      diff <(picture "$top") <(picture "out$SOURCE")
      diff -r --no-dereference "$top" "out$SOURCE" 2>&1 | grep -vE '(fifo|socket|special file)' || true
      [ "$(stat -c %i "$top/plain")" = "$(stat -c %i "$top/second")" ]
      [ "$(stat -c %i "$top/plain")" != "$(stat -c %i "$top/nothing")" ]
      stat -c %h "$top/plain"
      getfattr -n user.comment --only-values "$top/plain"; echo
      stat -c '%t %T' "$top/block"
      ls "$top/many" | wc -l
      ls mnt mnt/hosts/* mnt/tags
      ls mnt/ids/* -d; readlink mnt/snapshots/latest; ls mnt/snapshots
      # Numbers stay, also after the kernel forgot.
      a=$(stat -c %i "$top/noise"); echo 2 > /proc/sys/vm/drop_caches || true; [ "$a" = "$(stat -c %i "$top/noise")" ]
      ! touch mnt/x 2>/dev/null; ! touch "$top/plain" 2>/dev/null
      ! ls mnt/nothing 2>/dev/null; ! cat "$top/sub" 2>/dev/null
      """)
    #expect(run.status == 0, "\(run.output) \(run.errors)")
    let lines = run.output.split(separator: "\n").map(String.init)
    try #require(lines.count > 10, "\(run.output)")
    #expect(Array(lines.prefix(4)) == ["2", "kept", "103 12c", "3000"], "and no difference before: \(lines.prefix(8))")
    #expect(lines.contains("hosts") && lines.contains("a_b") && lines.contains("c") && lines.contains("latest"))
    #expect(try await fixture.salvor("list", "locks").output.isEmpty)
  }

  @Test(.timeLimit(.minutes(10)))
  func `readers at random places and side by side get the right bytes`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try fixture.write("big", SeededRandomness(seed: 42).bytes(24 << 20))
    try await fixture.shell("for i in $(seq 60); do head -c $((i * 7001)) big > part$i; done")
    try await fixture.salvor("backup", "source").succeeded()
    let run = try await mounted(
      fixture, "--cache-size 4",
      """
      cat > reader.py <<'END'
      import os, random, sys, threading
      mounted, source = sys.argv[1] + "/big", sys.argv[2] + "/big"
      size, wrong = os.path.getsize(source), []
      def work(seed):
          chance = random.Random(seed)
          a, b = os.open(mounted, os.O_RDONLY), os.open(source, os.O_RDONLY)
          for _ in range(60):
              offset, count = chance.randrange(size + 100), chance.choice([1, 4095, 4096, 100000, 1 << 20])
              try:
                  if os.pread(a, count, offset) != os.pread(b, count, offset): wrong.append((offset, count))
              except OSError as error: wrong.append((offset, count, str(error)))
          os.close(a); os.close(b)
      threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
      [t.start() for t in threads]; [t.join() for t in threads]
      print("wrong", len(wrong), wrong[:3])
      END
      python3 reader.py "mnt/snapshots/latest$SOURCE" "$SOURCE"
      (cd "mnt/snapshots/latest$SOURCE" && ls big part* | xargs -n 4 -P 8 sha256sum | sort) > a
      (cd "$SOURCE" && sha256sum big part* | sort) > b
      cmp a b && echo same
      """)
    #expect(run.output == "wrong 0 []\nsame\n", "\(run.output) \(run.errors)")
  }

  @Test(.timeLimit(.minutes(10)))
  func `a damaged blob is an input/output error and said, everything else is read`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try fixture.write("large", SeededRandomness(seed: 9).bytes(6 << 20))
    try await fixture.salvor("backup", "source").succeeded()
    let pack = try await fixture.shell("find \(fixture.repository)/data -type f -size +5M | head -1")
      .trimmingCharacters(in: .newlines)
    try await fixture.shell("chmod u+w \(pack); printf xxxx | dd of=\(pack) bs=1 seek=4000000 conv=notrunc 2>/dev/null")
    let run = try await mounted(
      fixture, "",
      """
      top="mnt/snapshots/latest$SOURCE"
      for i in 1 2; do ( cat "$top/large" "$top/sub/deep/large" > all 2> err ) && echo no error || true; cat err; done
      cat "$top/plain"
      """)
    #expect(run.status == 0 && run.output.contains("Input/output error"), "\(run.output) \(run.errors)")
    #expect(!run.output.contains("no error") && run.output.hasSuffix("hello\n"))
    let log = try await fixture.shell("cat ../mount.log")
    let said = log.split(separator: "\n").filter { $0.hasPrefix("damage: VAULT-121") }
    #expect(said.count == 1 && said.allSatisfy { $0.contains(Files.last(of: pack)) }, "once: \(log)")
  }

  @Test(.timeLimit(.minutes(10)))
  func `it ends with umount, with a signal, and while somebody is in there`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try await fixture.salvor("backup", "source").succeeded()
    for end in [
      "umount mnt; wait $pid", "kill -TERM $pid; wait $pid", "kill -INT $pid; wait $pid",
      // Sits in there with a file open.
      "(cd mnt/ids && exec 3< */$SOURCE/plain && exec sleep 100) & other=$!; sleep 0.3; kill -TERM $pid; wait $pid; "
        + "kill $other; wait $other || true",
    ] {
      let run = try await mounted(
        fixture, "", "ls mnt > /dev/null; ls $RESTIC_REPOSITORY/locks | wc -l; \(end)\n! mountpoint -q mnt; echo ended")
      #expect(run.status == 0 && run.output == "1\nended\n", "\(end): \(run.output) \(run.errors)")
      #expect(try Files.names(in: fixture.repository + "/locks").isEmpty, "\(end)")
    }
    // A backup goes on meanwhile, a prune waits.
    let run = try await mounted(
      fixture, "", "$SALVOR vault backup source > /dev/null; $SALVOR vault prune 2>&1 | head -1 || true")
    #expect(run.output.contains("VAULT-201"), "\(run.output) \(run.errors)")
  }

  @Test(.timeLimit(.minutes(10)))
  func `a repository on a server is let go of after a signal too, and keeps no escrow`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try await fixture.salvor("backup", "source").succeeded()
    let script = """
      port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
      "$SALVOR" vault serve --path . --listen 127.0.0.1:$port --no-auth 2> serve.log & server=$!
      trap 'kill $server; wait $server || true' EXIT
      export RESTIC_REPOSITORY=rest:http://127.0.0.1:$port/repository/
      for i in $(seq 200); do grep -q serving serve.log && break; sleep 0.05; done
      mkdir -p mnt
      for signal in TERM INT; do
        "$SALVOR" vault mount mnt -q 2> mount.log & pid=$!
        for i in $(seq 400); do mountpoint -q mnt && break; kill -0 $pid; sleep 0.05; done
        cat "mnt/snapshots/latest$SOURCE/plain"
        kill -$signal $pid; wait $pid; cat mount.log; ls repository/locks | wc -l
      done
      "$SALVOR" vault escrow keygen --private other > other.pub
      "$SALVOR" vault escrow add other.pub 2>&1 | head -1 | cut -c1-15
      "$SALVOR" vault escrow list | tail -1
      """
    let run = try await CommandRun(
      ["bash", "-euc", script], in: fixture.directory.path,
      environment: [
        "RESTIC_PASSWORD_FILE": fixture.passwordFile, "SALVOR_STATE": fixture.directory.file("state"),
        "SOURCE": fixture.source, "SALVOR": try CommandRun.product("salvor"), "HOME": fixture.directory.path,
      ])
    #expect(run.output == "hello\n0\nhello\n0\nerror VAULT-219\n0 recipients\n", "\(run.output) \(run.errors)")
  }

  @Test(.timeLimit(.minutes(10)))
  func `only what the filters let through, and as whose one wants`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try await fixture.shell("chmod 755 ..")
    try await fixture.salvor("backup", "source", "--host", "one").succeeded()
    try await fixture.salvor("backup", "source", "--host", "two", "--tag", "..").succeeded()
    let run = try await mounted(
      fixture, "--host two --owner-root --allow-other",
      """
      ls mnt/hosts mnt/ids | grep -c .; ls mnt/hosts; ls mnt/tags
      stat -c '%u:%g' mnt/hosts/two/latest$SOURCE/plain
      chmod 711 .; setpriv --reuid 4321 --regid 4321 --clear-groups cat mnt/hosts/two/latest$SOURCE/plain
      ! setpriv --reuid 4321 --regid 4321 --clear-groups cat mnt/hosts/two/latest$SOURCE/sub/trace.log 2>/dev/null
      """)
    #expect(run.status == 0, "\(run.errors)")
    #expect(run.output == "4\ntwo\n__\n0:0\nhello\n", "\(run.output)")
    expectFailure(try await fixture.salvor("mount", fixture.directory.file("nowhere")), 1, "VAULT-218")
    expectFailure(try await fixture.salvor("mount", fixture.passwordFile), 1, "VAULT-218")
    #expect(try await fixture.salvor("mount", "--cache-size", "0", fixture.directory.path).status == 2)
    #expect(try Files.names(in: fixture.repository + "/locks").isEmpty)
  }
}
