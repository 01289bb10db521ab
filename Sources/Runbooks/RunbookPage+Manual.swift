import Core

// The way without Salvor: stock restic and the engines' own programs, as `docs/exit-door.md` has it.

extension RunbookPage {
  func manual() -> Section {
    var steps: [Step] = [open(), check()]
    steps += Set(stores.map { $0.group ?? $0.name }).sorted().map(point)
    steps += [stop()].compactMap(\.self)
    steps += stores.compactMap(bring)
    steps += facts.inOrder(services).compactMap(start)
    steps.append(contentsOf: checks())
    for index in steps.indices {
      let id = "m\(index + 1)"
      let next = index + 1 < steps.count ? "m\(index + 2)" : Step.end
      steps[index].id = id
      for place in steps[index].outcomes.indices where steps[index].outcomes[place].target == "next" {
        steps[index].outcomes[place].target = next
      }
      for place in steps[index].outcomes.indices where steps[index].outcomes[place].target == "self" {
        steps[index].outcomes[place].target = id
      }
      steps[index].who = steps[index].who ?? operatorOnCall
    }
    return Section(
      "manual", "Without Salvor",
      [
        .text(
          "When Salvor can't be used: restic 0.14 or later and the engines' own programs, nothing else. It takes longer, keeps nothing by itself and compares nothing with what was captured. Everything of one group comes from the same point."
        )
      ] + steps.map { .step($0) })
  }

  private func next(_ prints: [String] = [], otherwise: Phrase, to target: String = "self") -> [Step.Outcome] {
    [.init(.status([0], prints: prints), to: "next"), .init(.otherStatus, otherwise, to: target)]
  }

  private func open() -> Step {
    let repository = repositories.first
    let password = repository?.password ?? ""
    let secret =
      password.hasPrefix("file:")
      ? "RESTIC_PASSWORD_FILE=\(Shell.word(String(password.dropFirst(5))))"
      : password.hasPrefix("env:")
        ? "RESTIC_PASSWORD=\"$\(password.dropFirst(4))\""
        : "RESTIC_PASSWORD_COMMAND=\(Shell.word(String(password.dropFirst("command:".count))))"
    var text: [Phrase] = [
      "What restic restores lands below \(code: "$TARGET"), best on the disk of the stores; remove it when all is over."
    ]
    for mirror in repository?.mirrors ?? [] {
      text.append("If it is gone or damaged, its copy will do: \(code: mirror).")
    }
    if repositories.count > 1 {
      text.append("Other repositories of these stores: \(repositories.dropFirst().map(\.resticLocation).listed).")
    }
    return Step(
      "", "Open the repository", text,
      command: """
        export RESTIC_REPOSITORY=\(Shell.word(repository?.resticLocation ?? ""))
        export \(secret)
        export TARGET="$(mktemp -d "${TMPDIR:-/var/tmp}/manual.XXXXXX")" ASIDE="aside-$(date -u +%Y%m%dT%H%M%SZ)"
        restic snapshots --tag salvor-point
        """,
      outcomes: next(["salvor-point"], otherwise: "take the copy, or the password from the escrow, and do it again"))
  }

  private func check() -> Step {
    var step = Step(
      "", "Read every byte", ["May be left out where minutes count; then damage is found later, in the engine."],
      command: "restic check --read-data",
      outcomes: next(["no errors were found"], otherwise: "bring what it names from a copy of the repository"))
    step.time = "as long as it takes to read the repository once"
    return step
  }

  private func variable(_ group: String) -> String { "POINT_" + Shell.variable(group) }

  private func point(_ group: String) -> Step {
    let members = stores.filter { ($0.group ?? $0.name) == group }
    let name = variable(group)
    let tag = "store:\(members.first?.name ?? "")"
    return Step(
      "", "The point of \(group)",
      [
        "The newest. For an older one take another \(code: "point:") from the list before; the same one for \(members.map(\.name).listed)."
      ],
      command: """
        export \(name)="$(restic snapshots --json --tag \(Shell.word(tag)) | grep -o '"point:[^"]*"' | tr -d '"' | cut -d: -f2- | sort | tail -n 1)"
        echo "$\(name)"
        test -n "$\(name)"
        """, outcomes: next(otherwise: "the repository has no copy of it: take another repository"))
  }

  private func stop() -> Step? {
    let running = facts.inOrder(services).reversed()
    let commands = running.compactMap(\.stop)
    let others = running.filter { $0.stop == nil }.map(\.name)
    var text: [Phrase] = ["Users first, then what they use."]
    if !others.isEmpty { text.append("These have no command for it, end their processes: \(others.listed).") }
    text.append("Then the servers of \(stores.map(\.name).listed), unless they are down.")
    return Step(
      "", "Stop everything", text, command: commands.isEmpty ? nil : commands.joined(separator: "\n"),
      outcomes: commands.isEmpty
        ? [.init(.situation("nothing of it runs any more"), to: "next")]
        : next(otherwise: "what is down already can't be stopped: go on when nothing of it runs", to: "next"))
  }

  private func bring(_ store: RunbookFacts.Store) -> Step? {
    let title = "Bring \(store.name) back"
    guard let recipe = ManualRecipe.of(store.driver), let path = store.path else {
      return Step(
        "", title,
        ["Restore its snapshot, and lay it out as the page of driver \(code: store.driver) says."],
        command:
          "restic restore latest --tag \"store:\(store.name),point:$\(variable(store.group ?? store.name))\" --target \"$TARGET\"",
        outcomes: next(otherwise: "the point has no copy of it: take another point"))
    }
    var lines = [
      "export STORE=\(Shell.word(store.name)) POINT=\"$\(variable(store.group ?? store.name))\"",
      "export DESTINATION=\(Shell.word(path)) PORT=\(Shell.word(store.port ?? ""))",
      "(", "set -e",
    ]
    lines += recipe.aside
    lines += recipe.lines + recipe.service(store) + [")"]
    var text = recipe.remarks
    text.insert("It comes to \(code: path). What is there now is moved aside, not deleted.", at: 0)
    return Step(
      "", title, text, command: lines.joined(separator: "\n"),
      outcomes: next(
        recipe.prints,
        otherwise:
          "see what it names; what it brought is below \(code: "$TARGET"), what was there has \(code: "$ASIDE") behind its name; then"
      ))
  }

  private func start(_ service: RunbookFacts.Service) -> Step? {
    let questions = service.ready.compactMap(\.command)
    var lines: [String] = []
    if let command = service.start {
      lines.append(
        service.isDaemon
          ? "nohup \(command) >\"$TARGET/\(service.name).log\" 2>&1 </dev/null &" : command)
    }
    for question in questions {
      lines.append("for try in $(seq 300); do \(question) && break; sleep 0.2; done")
      lines.append(question)
    }
    let title = "Start \(service.name)"
    if lines.isEmpty {
      return Step("", title, [], outcomes: [.init(.situation("it runs"), to: "next")])
    }
    return Step(
      "", title, service.start == nil ? ["Somebody else starts it; this waits until it answers."] : [],
      command: lines.joined(separator: "\n"),
      outcomes: next(otherwise: "look at its log, \(code: "$TARGET/\(service.name).log"), and do it again"))
  }

  private func checks() -> [Step] {
    var lines: [String] = []
    var words: [Phrase] = []
    for service in facts.inOrder(services) {
      for check in service.validators {
        if let command = check.command {
          lines.append("\(command) || { echo \(Shell.word("\(service.name): not \(check.name)")); wrong=1; }")
        } else {
          words.append("\(code: service.name), \(code: check.name): \(check.words)")
        }
      }
    }
    for rule in facts.rules where Set(stores.map(\.name)).isSuperset(of: rule.stores) {
      words.append("\(code: rule.name): \(rule.words)")
    }
    var steps: [Step] = []
    if !lines.isEmpty {
      steps.append(
        Step(
          "", "Is it right?", [], command: (["wrong=0"] + lines + ["test \"$wrong\" = 0"]).joined(separator: "\n"),
          outcomes: next(otherwise: "what it names is not as it should be: take an older point", to: "m3")))
    }
    if !words.isEmpty {
      steps.append(
        Step(
          "", "What only a person can ask here", words,
          outcomes: [
            .init(.situation("it is so"), to: "next"),
            .init(.situation("it is not"), "take an older point", to: "m3"),
          ]))
    }
    return steps
  }
}

/// How one kind of store is laid out by hand; word by word the blocks of `docs/exit-door.md`, which a test runs.
package struct ManualRecipe: Sendable {
  /// Moves away what is in the place.
  var aside: [String]
  package var lines: [String]
  var prints: [String] = []
  var remarks: [Phrase] = []

  package static let drivers = ["etcd", "files", "mariadb", "nats", "postgresql", "rabbitmq", "redis", "sqlite"]

  /// Starts the usual server where the recipe leaves none running, and its configuration is known.
  func service(_ store: RunbookFacts.Store) -> [String] {
    guard store.driver == "mariadb", let file = store.configFile, store.port != nil else { return [] }
    return [
      "runuser -u \(Shell.word(store.runAs ?? "mysql")) -- mariadbd --defaults-file=\(Shell.word(file)) "
        + "--datadir=\"$DESTINATION\" >/dev/null 2>&1 &",
      "until mariadb-admin --no-defaults --protocol=tcp --host=\(Shell.word(store.host ?? "127.0.0.1")) --port=\"$PORT\" ping; "
        + "do sleep 0.2; done",
    ]
  }

  private static let move = [
    "if [ -e \"$DESTINATION\" ]; then mv \"$DESTINATION\" \"$DESTINATION.$ASIDE\"; fi",
    "mkdir -p \"$(dirname \"$DESTINATION\")\"",
  ]

  package static func of(_ driver: String) -> ManualRecipe? {
    guard let text = blocks[driver] else { return nil }
    var recipe = ManualRecipe(aside: move, lines: text.split(separator: "\n").map(String.init))
    switch driver {
    case "sqlite":
      recipe.aside = [
        "for old in \"$DESTINATION\" \"$DESTINATION-wal\" \"$DESTINATION-shm\" \"$DESTINATION-journal\"; do",
        "  if [ -e \"$old\" ]; then mv \"$old\" \"$old.$ASIDE\"; fi", "done", move[1],
      ]
      recipe.remarks = ["Needs \(code: "sqlite3")."]
    case "postgresql":
      recipe.remarks = [
        "Needs PostgreSQL of the same major version. The server it starts is the store's: standbys have to be made anew, and \(code: "archive_command") needs a fresh place."
      ]
    case "redis":
      recipe.remarks = ["Needs Redis 7. It proves the data; for service start it with its own configuration."]
    case "mariadb":
      recipe.remarks = [
        "Needs MariaDB and mariadb-backup of the same series. If it doesn't start the usual server, do so then."
      ]
    case "rabbitmq":
      recipe.aside = [
        "for old in \"$DESTINATION\" \"$DESTINATION-feature_flags\"; do",
        "  if [ -e \"$old\" ]; then mv \"$old\" \"$old.$ASIDE\"; fi", "done", move[1],
      ]
      recipe.remarks = [
        "Needs RabbitMQ of the captured series. It proves the data; for service start it with its own configuration and plugins."
      ]
    case "nats", "etcd": recipe.remarks = ["It proves the data; for service start it with its own configuration."]
    default: break
    }
    return recipe
  }

  private static let blocks: [String: String] = [
    "files": #"""
    test ! -e "$DESTINATION"
    restic restore latest --tag "store:$STORE,point:$POINT" --target "$TARGET"
    mv "$(find "$TARGET/$STORE" -mindepth 1 -maxdepth 1)" "$DESTINATION"    # the directory, under its own name
    """#,
    "sqlite": #"""
    for old in "$DESTINATION" "$DESTINATION-wal" "$DESTINATION-shm" "$DESTINATION-journal"; do test ! -e "$old"; done
    restic restore latest --tag "store:$STORE,point:$POINT" --target "$TARGET"
    database="$(find "$TARGET/$STORE" -type f)"                        # the one file there is
    sqlite3 "$database" 'PRAGMA integrity_check' | grep -qx ok
    mv "$database" "$DESTINATION"
    """#,
    "postgresql": #"""
    test ! -e "$DESTINATION"
    restic restore latest --tag "store:$STORE,point:$POINT" --target "$TARGET"
    bin="/usr/lib/postgresql/$(cat "$TARGET/$STORE/data/PG_VERSION")/bin"
    mv "$TARGET/$STORE/data" "$DESTINATION"
    # Tablespaces, if there are any: tell the server where they are now.
    for space in "$TARGET/$STORE/tablespaces"/*; do
      if [ -d "$space" ]; then
        oid="$(basename "$space")"
        mv "$space" "$DESTINATION-$oid"
        chown -R postgres: "$DESTINATION-$oid"
        chmod 700 "$DESTINATION-$oid"
        sed -i "s|^$oid .*|$oid $DESTINATION-$oid|" "$DESTINATION/tablespace_map"
      fi
    done
    # Configuration that lived outside the data directory, as on Debian: it moves in.
    for file in "$TARGET/$STORE/config"/*.conf; do
      if [ -f "$file" ]; then
        cp "$file" "$DESTINATION/"
        mkdir -p "$DESTINATION/conf.d"
        sed -Ei '/^(data_directory|hba_file|ident_file|external_pid_file)\>/d' "$DESTINATION/$(basename "$file")"
      fi
    done
    touch "$DESTINATION/recovery.signal"
    echo "restore_command = 'false'" >> "$DESTINATION/postgresql.auto.conf"
    chown -R postgres: "$DESTINATION"
    chmod 700 "$DESTINATION"
    runuser -u postgres -- "$bin/pg_ctl" -D "$DESTINATION" -l "$DESTINATION/exit-door.log" -o "-p $PORT" -w -t 3600 start
    until "$bin/pg_controldata" -D "$DESTINATION" | grep -q 'in production'; do sleep 0.2; done
    sed -i "/^restore_command = 'false'\$/d" "$DESTINATION/postgresql.auto.conf"
    """#,
    "mariadb": #"""
    test ! -e "$DESTINATION"
    restic restore latest --tag "store:$STORE,point:$POINT" --target "$TARGET"
    mv "$TARGET/$STORE/data" "$DESTINATION"
    chown -R mysql: "$DESTINATION"
    chmod 700 "$DESTINATION"
    runuser -u mysql -- mariadb-backup --prepare --target-dir="$DESTINATION" --tmpdir="$DESTINATION"
    # With a place of its own for temporary tables: a server removes those it finds at its start.
    runuser -u mysql -- mariadbd --no-defaults --datadir="$DESTINATION" --tmpdir="$DESTINATION" --skip-networking \
      --socket="$DESTINATION/exit-door.sock" --log-error="$DESTINATION/exit-door.log" --log-bin=bin --server-id=1 >/dev/null 2>&1 &
    until mariadb-admin --no-defaults --socket="$DESTINATION/exit-door.sock" --user=root ping; do sleep 0.2; done
    # In the order of its numbers. Without it the store was outside the cut, and is as it was when it was copied.
    if [ -d "$TARGET/$STORE/binlog" ]; then
      mariadb-binlog "$TARGET/$STORE"/binlog/* \
        | mariadb --no-defaults --binary-mode --socket="$DESTINATION/exit-door.sock" --user=root
    fi
    mariadb-check --no-defaults --socket="$DESTINATION/exit-door.sock" --user=root --all-databases --check
    mariadb-admin --no-defaults --socket="$DESTINATION/exit-door.sock" --user=root shutdown
    """#,
    "redis": #"""
    test ! -e "$DESTINATION"
    restic restore latest --tag "store:$STORE,point:$POINT" --target "$TARGET"
    redis-check-aof "$TARGET/$STORE/appendonlydir/appendonly.aof.manifest"
    mv "$TARGET/$STORE" "$DESTINATION"
    chown -R redis: "$DESTINATION"
    runuser -u redis -- redis-server --dir "$DESTINATION" --appendonly yes --bind 127.0.0.1 --port "$PORT" \
      --pidfile "$DESTINATION/exit-door.pid" --logfile "$DESTINATION/exit-door.log" --daemonize yes
    until redis-cli -p "$PORT" ping | grep -q PONG; do sleep 0.2; done
    """#,
    "nats": #"""
    test ! -e "$DESTINATION"
    restic restore latest --tag "store:$STORE,point:$POINT" --target "$TARGET"
    mv "$TARGET/$STORE" "$DESTINATION"
    chown -R nats: "$DESTINATION"
    runuser -u nats -- nats-server -js -sd "$DESTINATION" -a 127.0.0.1 -p "$PORT" \
      -P "$DESTINATION/exit-door.pid" -l "$DESTINATION/exit-door.log" >/dev/null 2>&1 &
    until bash -c ": < /dev/tcp/127.0.0.1/$PORT" 2>/dev/null; do sleep 0.2; done
    """#,
    "rabbitmq": #"""
    test ! -e "$DESTINATION" && test ! -e "$DESTINATION-feature_flags"
    restic restore latest --tag "store:$STORE,point:$POINT" --target "$TARGET"
    node="$(basename "$DESTINATION")"                                  # such as rabbit@host: files and name belong together
    mv "$TARGET/$STORE/$node" "$DESTINATION"
    mv "$TARGET/$STORE/$node-feature_flags" "$DESTINATION-feature_flags"
    mkdir "$DESTINATION/exit-door"
    chown -R rabbitmq: "$DESTINATION" "$DESTINATION-feature_flags"
    runuser -u rabbitmq -- env HOME="$DESTINATION/exit-door" RABBITMQ_CONF_ENV_FILE=/dev/null RABBITMQ_NODENAME="$node" \
      RABBITMQ_MNESIA_BASE="$(dirname "$DESTINATION")" RABBITMQ_PLUGINS_EXPAND_DIR="$DESTINATION/exit-door/expanded" \
      RABBITMQ_ENABLED_PLUGINS_FILE="$DESTINATION/exit-door/plugins" RABBITMQ_LOGS="$DESTINATION/exit-door/log" \
      RABBITMQ_PID_FILE="$DESTINATION/exit-door/pid" RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_NODE_PORT="$PORT" \
      RABBITMQ_DIST_PORT="$((PORT + 1))" ERL_EPMD_PORT="$((PORT + 2))" ERL_EPMD_ADDRESS=127.0.0.1 \
      RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}" \
      /usr/lib/rabbitmq/bin/rabbitmq-server >/dev/null 2>&1 &
    until bash -c ": < /dev/tcp/127.0.0.1/$PORT" 2>/dev/null; do sleep 0.2; done
    """#,
    "etcd": #"""
    test ! -e "$DESTINATION"
    restic restore latest --tag "store:$STORE,point:$POINT" --target "$TARGET"
    peer="http://127.0.0.1:$((PORT + 1))"
    ETCDCTL_API=3 etcdctl snapshot restore "$TARGET/$STORE/snapshot.db" --data-dir "$DESTINATION" \
      --initial-cluster "default=$peer" --initial-advertise-peer-urls "$peer"
    chown -R etcd: "$DESTINATION"
    runuser -u etcd -- etcd --data-dir "$DESTINATION" --listen-client-urls "http://127.0.0.1:$PORT" \
      --advertise-client-urls "http://127.0.0.1:$PORT" --listen-peer-urls "$peer" >/dev/null 2>&1 &
    until ETCDCTL_API=3 etcdctl --endpoints "http://127.0.0.1:$PORT" endpoint health; do sleep 0.2; done
    """#,
  ]
}
