/* STAND-IN for CoreDNS, which is not in Debian 12: answers the kubelet's health checks, resolves nothing. */
#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char ANSWER[] = "HTTP/1.0 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\nstand-in";

static int listener(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 16)) {
        perror("coredns stand-in");
        _exit(1);
    }
    return fd;
}

static void end(int signal) {
    (void)signal;
    _exit(0);
}

int main(void) {
    struct pollfd ports[2] = {{listener(8080), POLLIN, 0}, {listener(8181), POLLIN, 0}};
    char request[2048];

    signal(SIGTERM, end);
    signal(SIGPIPE, SIG_IGN);
    puts("STAND-IN for CoreDNS: answers health checks and no names");
    fflush(stdout);
    for (;;) {
        if (poll(ports, 2, -1) < 1)
            continue;
        for (int i = 0; i < 2; i++) {
            int peer = ports[i].revents & POLLIN ? accept(ports[i].fd, NULL, NULL) : -1;
            if (peer < 0)
                continue;
            if (read(peer, request, sizeof request) > 0 && write(peer, ANSWER, strlen(ANSWER)) < 0)
                perror("coredns stand-in");
            close(peer);
        }
    }
}
